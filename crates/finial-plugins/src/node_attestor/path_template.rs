//! Agent path templates: the part of Go's `text/template`, with functions of sprig, that operators write.
//!
//! Text, fields, pipelines, parentheses, variables of none, and `if`/`else`/`end`. What is not supported is an error when the
//! configuration is read, by name; a field that does not exist is an error when an agent attests.

mod functions;
mod parse;
mod value;

use parse::{Argument, Call, Node, Pipeline};
pub use value::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct PathTemplate {
    nodes: Vec<Node>,
}

/// Why a template is no good, or has no result for an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The text is not a template.
    #[error("column {column}: {message}")]
    Syntax {
        /// Where, counted from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// A function nobody here has.
    #[error("column {column}: function {name:?} not defined; supported are: {known}")]
    UnknownFunction {
        /// Where, counted from 1.
        column: usize,
        /// Its name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A field that the data does not have.
    #[error("no entry for key {key:?}")]
    MissingKey {
        /// The field.
        key: String,
    },
    /// A function did not take its arguments.
    #[error("error calling {function}: {message}")]
    Call {
        /// The function.
        function: String,
        /// What it said.
        message: String,
    },
}

impl PathTemplate {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self {
            nodes: parse::parse(text)?,
        })
    }

    /// Fills the template in.
    pub fn execute(&self, data: &Value) -> Result<String, TemplateError> {
        let mut out = String::new();
        execute(&self.nodes, data, &mut out)?;
        Ok(out)
    }
}

fn execute(nodes: &[Node], data: &Value, out: &mut String) -> Result<(), TemplateError> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Output(pipeline) => {
                out.push_str(&evaluate(pipeline, data)?.to_string());
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                let branch = if evaluate(condition, data)?.is_true() {
                    then
                } else {
                    otherwise
                };
                execute(branch, data, out)?;
            }
        }
    }
    Ok(())
}

fn evaluate(pipeline: &Pipeline, data: &Value) -> Result<Value, TemplateError> {
    let mut piped = None;
    for call in &pipeline.calls {
        piped = Some(match call {
            Call::Value(argument) => resolve(argument, data)?,
            Call::Function { name, arguments } => {
                let mut values = arguments
                    .iter()
                    .map(|argument| resolve(argument, data))
                    .collect::<Result<Vec<_>, _>>()?;
                values.extend(piped.take());
                functions::call(name, &values).map_err(|message| TemplateError::Call {
                    function: name.clone(),
                    message,
                })?
            }
        });
    }
    Ok(piped.unwrap_or(Value::Nil))
}

fn resolve(argument: &Argument, data: &Value) -> Result<Value, TemplateError> {
    match argument {
        Argument::Literal(value) => Ok(value.clone()),
        Argument::Field(path) => field(data.clone(), path),
        Argument::Group(pipeline, path) => field(evaluate(pipeline, data)?, path),
    }
}

fn field(mut value: Value, path: &[String]) -> Result<Value, TemplateError> {
    for key in path {
        value = value
            .field(key)
            .cloned()
            .ok_or_else(|| TemplateError::MissingKey { key: key.clone() })?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Value {
        Value::map([
            ("PluginName", Value::from("x509pop")),
            ("Fingerprint", Value::from("abcdef")),
            (
                "Subject",
                Value::map([("CommonName", Value::from("Host.Example.ORG"))]),
            ),
            ("DNSNames", Value::list(["a.test", "b.test"])),
            ("Empty", Value::from("")),
        ])
    }

    fn run(text: &str) -> String {
        PathTemplate::parse(text).unwrap().execute(&data()).unwrap()
    }

    #[test]
    fn fields_and_pipelines_are_filled_in() {
        for (text, expected) in [
            ("/{{ .PluginName }}/{{ .Fingerprint }}", "/x509pop/abcdef"),
            ("/{{.PluginName}}", "/x509pop"),
            (
                "/cn/{{ .Subject.CommonName | lower | trimSuffix \".example.org\" }}",
                "/cn/host",
            ),
            ("/{{ trunc 3 .Fingerprint }}", "/abc"),
            ("/{{ .Fingerprint | trunc -2 }}", "/ef"),
            (
                "/{{ replace \".\" \"-\" .Subject.CommonName | upper }}",
                "/HOST-EXAMPLE-ORG",
            ),
            ("/{{ (index .DNSNames 1) | trimPrefix \"b\" }}", "/.test"),
            ("/{{ .Empty | default \"none\" }}", "/none"),
            ("/{{ sha256sum \"a\" | trunc 8 }}", "/ca978112"),
            ("/{{ printf \"%s-%d\" .PluginName 7 }}", "/x509pop-7"),
            ("/{{ join \"_\" .DNSNames }}", "/a.test_b.test"),
            (
                "/{{ .DNSNames | first }}/{{ last .DNSNames }}",
                "/a.test/b.test",
            ),
            ("/{{ quote .PluginName }}", "/\"x509pop\""),
            ("{{- /* why */ -}} /x  {{- `/raw` }}", "/x/raw"),
            (
                "{{ if .Empty }}/a{{ else if eq .PluginName \"x509pop\" }}/b{{ else }}/c{{ end }}",
                "/b",
            ),
            ("{{ if and .PluginName (not .Empty) }}/yes{{ end }}", "/yes"),
            ("/{{ $.PluginName }}", "/x509pop"),
        ] {
            assert_eq!(run(text), expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_function_is_named_when_the_template_is_read() {
        let error = PathTemplate::parse("/{{ .PluginName | frobnicate }}").unwrap_err();
        assert!(
            matches!(&error, TemplateError::UnknownFunction { name, .. } if name == "frobnicate"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_a_template_is_refused() {
        for text in [
            "/{{ .A",
            "/{{ }}",
            "/{{ .A | }}",
            "/{{ end }}",
            "{{ if .A }}",
            "{{ \"a }}",
            "{{ range .A }}{{ end }}",
            "{{ 1 .A }}",
        ] {
            assert!(PathTemplate::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_key_is_an_error_and_not_a_hole_in_the_path() {
        let template = PathTemplate::parse("/{{ .Subject.Nope }}").unwrap();
        assert_eq!(
            template.execute(&data()),
            Err(TemplateError::MissingKey {
                key: "Nope".to_owned()
            })
        );
    }
}
