//! Filters and pages in SQL.
//!
//! A set filter is answered from an index table that has one row per member of each stored set. For "equal" and "subset",
//! the number of a set's members that are in the filter's set must be the size of the stored set.

use spiffe_types::selector::SelectorSet;
use sqlx::{QueryBuilder, Sqlite};

use crate::entries::{SelectorFilter, SetMatch, TrustDomainFilter};
use crate::error::StoreError;
use crate::page::{Page, PageOf};

/// Appends ` WHERE`, then ` AND`.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    any: bool,
}

impl Conditions {
    pub(super) fn next<'a>(
        &mut self,
        query: &'a mut QueryBuilder<Sqlite>,
    ) -> &'a mut QueryBuilder<Sqlite> {
        query.push(if self.any { " AND " } else { " WHERE " });
        self.any = true;
        query
    }
}

/// Restricts to rows whose selectors match. `index` is the index table.
pub(super) fn by_selectors(
    query: &mut QueryBuilder<Sqlite>,
    conditions: &mut Conditions,
    index: &'static str,
    filter: &SelectorFilter,
) {
    let members: Vec<Member<'_>> = members(&filter.selectors);
    by_set(
        query,
        conditions,
        index,
        "selector_count",
        &members,
        filter.matching,
    );
}

/// Restricts to entries whose federated trust domains match.
pub(super) fn by_trust_domains(
    query: &mut QueryBuilder<Sqlite>,
    conditions: &mut Conditions,
    filter: &TrustDomainFilter,
) {
    let members: Vec<Member<'_>> = filter
        .trust_domains
        .iter()
        .map(|trust_domain| Member {
            columns: [("trust_domain", trust_domain.as_str())].into(),
        })
        .collect();
    by_set(
        query,
        conditions,
        "entry_federations",
        "federation_count",
        &members,
        filter.matching,
    );
}

/// Restricts to the rows of the page and orders them.
pub(super) fn page(
    query: &mut QueryBuilder<Sqlite>,
    conditions: &mut Conditions,
    page: Option<&Page>,
) -> Result<(), StoreError> {
    if let Some(token) = page.and_then(|page| page.token.as_deref()) {
        let Ok(after) = token.parse::<i64>() else {
            return Err(StoreError::InvalidPageToken {
                token: token.to_owned(),
            });
        };
        conditions.next(query).push("row_id > ").push_bind(after);
    }
    query.push(" ORDER BY row_id");
    if let Some(page) = page {
        query.push(" LIMIT ").push_bind(i64::from(page.size.max(1)));
    }
    Ok(())
}

/// Makes a page of rows and their ids.
pub(super) fn page_of<T>(rows: Vec<(i64, T)>, page: Option<&Page>) -> PageOf<T> {
    let next = page
        .and_then(|_| rows.last())
        .map(|(row_id, _)| row_id.to_string());
    PageOf {
        items: rows.into_iter().map(|(_, item)| item).collect(),
        next,
    }
}

struct Member<'a> {
    columns: Vec<(&'static str, &'a str)>,
}

impl Member<'_> {
    fn push(&self, query: &mut QueryBuilder<Sqlite>) {
        query.push("(");
        for (place, (column, value)) in self.columns.iter().enumerate() {
            if place > 0 {
                query.push(" AND ");
            }
            query
                .push(*column)
                .push(" = ")
                .push_bind((*value).to_owned());
        }
        query.push(")");
    }
}

fn members(selectors: &SelectorSet) -> Vec<Member<'_>> {
    selectors
        .iter()
        .map(|selector| Member {
            columns: vec![("kind", selector.kind()), ("value", selector.value())],
        })
        .collect()
}

fn by_set(
    query: &mut QueryBuilder<Sqlite>,
    conditions: &mut Conditions,
    index: &'static str,
    size: &'static str,
    members: &[Member<'_>],
    matching: SetMatch,
) {
    match matching {
        SetMatch::Superset | SetMatch::Exact => {
            for member in members {
                conditions
                    .next(query)
                    .push("row_id IN (SELECT owner FROM ")
                    .push(index);
                query.push(" WHERE ");
                member.push(query);
                query.push(")");
            }
            if matching == SetMatch::Exact {
                let count = i64::try_from(members.len()).unwrap_or(i64::MAX);
                conditions
                    .next(query)
                    .push(size)
                    .push(" = ")
                    .push_bind(count);
            }
        }
        SetMatch::Any => {
            conditions
                .next(query)
                .push("row_id IN (SELECT owner FROM ")
                .push(index);
            push_any(query, members);
            query.push(")");
        }
        SetMatch::Subset => {
            // Sets that share a member with the filter, as often as they have members; and the empty set.
            conditions
                .next(query)
                .push("(")
                .push(size)
                .push(" = 0 OR row_id IN (SELECT owner FROM ");
            query.push(index);
            push_any(query, members);
            query
                .push(" GROUP BY owner HAVING COUNT(*) = ")
                .push(size)
                .push("))");
        }
    }
}

fn push_any(query: &mut QueryBuilder<Sqlite>, members: &[Member<'_>]) {
    query.push(" WHERE ");
    if members.is_empty() {
        query.push("FALSE");
    }
    for (place, member) in members.iter().enumerate() {
        if place > 0 {
            query.push(" OR ");
        }
        member.push(query);
    }
}
