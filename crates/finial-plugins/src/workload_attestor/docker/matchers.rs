//! The operator's own patterns for container ids in cgroup paths: `/docker/<id>`, `/my.slice/*/<id>/*`.

use finial_plugin::{AttestError, PluginError};

/// Patterns of which at most one can match a path.
#[derive(Debug)]
pub(super) struct Matchers {
    patterns: Vec<Vec<Part>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Any,
    Id,
    Literal(String),
}

impl Matchers {
    pub(super) fn parse(patterns: &[String]) -> Result<Self, PluginError> {
        let mut parsed: Vec<Vec<Part>> = Vec::new();
        for pattern in patterns {
            let parts: Vec<_> = pattern.split('/').map(Part::parse).collect();
            if parts.iter().filter(|part| **part == Part::Id).count() != 1 {
                return Err(PluginError::misconfigured(format!(
                    "pattern {pattern:?} must contain the container id token \"<id>\" exactly once"
                )));
            }
            if parsed.iter().any(|other| overlap(other, &parts)) {
                return Err(PluginError::misconfigured(format!(
                    "dockerfinder: patterns must not be ambiguous: {patterns:?}"
                )));
            }
            parsed.push(parts);
        }
        Ok(Self { patterns: parsed })
    }

    /// Finds the one container id in the paths of a process.
    pub(super) fn find<'a>(
        &self,
        paths: impl Iterator<Item = &'a str>,
    ) -> Result<Option<String>, AttestError> {
        let mut found: Option<&str> = None;
        for id in paths.filter_map(|path| self.find_in(path)) {
            if id.is_empty() {
                return Err(AttestError::internal(
                    "a pattern matched, but no container id was found",
                ));
            }
            match found {
                Some(first) if first != id => {
                    return Err(AttestError::internal(format!(
                        "multiple container IDs found in cgroups ({first}, {id})"
                    )));
                }
                Some(_) | None => found = Some(id),
            }
        }
        Ok(found.map(str::to_owned))
    }

    fn find_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        let segments: Vec<_> = path.split('/').collect();
        let pattern = self.patterns.iter().find(|pattern| {
            pattern.len() == segments.len()
                && pattern
                    .iter()
                    .zip(&segments)
                    .all(|(part, segment)| part.matches(segment))
        })?;
        let position = pattern.iter().position(|part| *part == Part::Id)?;
        segments.get(position).copied()
    }
}

impl Part {
    fn parse(text: &str) -> Self {
        match text {
            "*" => Self::Any,
            "<id>" => Self::Id,
            literal => Self::Literal(literal.to_owned()),
        }
    }

    fn matches(&self, segment: &str) -> bool {
        match self {
            Self::Any | Self::Id => true,
            Self::Literal(literal) => literal == segment,
        }
    }
}

/// Tells whether some path matches both patterns.
fn overlap(left: &[Part], right: &[Part]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|parts| match parts {
            (Part::Literal(left), Part::Literal(right)) => left == right,
            _ => true,
        })
}
