//! Lists in pages.

/// Which part of a list is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// At most this many items; zero reads as one.
    pub size: u32,
    /// Where the previous page ended; `None` for the first page.
    pub token: Option<String>,
}

impl Page {
    /// Asks for the first page.
    pub fn first(size: u32) -> Self {
        Self { size, token: None }
    }

    /// Asks for the page after `token`; an empty token is the beginning.
    pub fn after(size: u32, token: impl Into<String>) -> Self {
        let token = token.into();
        Self {
            size,
            token: (!token.is_empty()).then_some(token),
        }
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOf<T> {
    /// The items, in the order in which they were created.
    pub items: Vec<T>,
    /// Where the next page begins: present whenever this page was asked for by size and is not empty, even if nothing
    /// follows. Clients read until a page is empty, as they do with SPIRE.
    pub next: Option<String>,
}
