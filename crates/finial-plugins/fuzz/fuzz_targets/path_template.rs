//! A template is refused, or it is filled in or fails; text without braces is itself.
#![no_main]

use finial_plugins::node_attestor::path_template::{PathTemplate, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(template) = PathTemplate::parse(text) else {
        return;
    };
    let data = Value::map([
        ("PluginName", Value::from("x509pop".to_owned())),
        ("Names", Value::list(["a".to_owned(), "b".to_owned()])),
    ]);
    let filled = template.execute(&data);
    if !text.contains("{{") {
        assert_eq!(filled.as_deref(), Ok(text));
    }
});
