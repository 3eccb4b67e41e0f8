//! What clients, agents and servers of other makers see on the wire is written down in `wire.txt`; our files must say the same.
//!
//! The list was made from the published API definitions: one line for each message, field, enum value and method, sorted. A line that
//! differs is a break of compatibility, however harmless it looks in the `.proto` file. Packages of our own are not in it.

use finial_proto::descriptor::DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto,
};

const PUBLISHED: &str = include_str!("wire.txt");

#[test]
fn the_published_packages_are_the_same_on_the_wire() {
    let descriptors = FileDescriptorSet::decode(DESCRIPTOR_SET).unwrap();

    let ours = render(&descriptors);

    let published: Vec<&str> = PUBLISHED.lines().collect();
    let missing: Vec<&&str> = published
        .iter()
        .filter(|line| !ours.iter().any(|our| our == *line))
        .collect();
    let added: Vec<&String> = ours
        .iter()
        .filter(|line| !published.contains(&line.as_str()))
        .collect();
    assert!(
        missing.is_empty() && added.is_empty(),
        "missing: {missing:#?}\nadded: {added:#?}"
    );
    assert_eq!(ours, published);
}

/// The lines of every published package, sorted.
fn render(descriptors: &FileDescriptorSet) -> Vec<String> {
    let mut lines = Vec::new();
    for file in descriptors
        .file
        .iter()
        .filter(|file| is_published(file.package()))
    {
        render_file(file, &mut lines);
    }
    lines.sort_unstable();
    lines
}

fn is_published(package: &str) -> bool {
    !package.starts_with("google.") && !package.starts_with("finial.")
}

fn render_file(file: &FileDescriptorProto, lines: &mut Vec<String>) {
    let scope = match file.package() {
        "" => String::new(),
        package => format!("{package}."),
    };
    for message in &file.message_type {
        render_message(&scope, message, lines);
    }
    for enumeration in &file.enum_type {
        render_enum(&scope, enumeration, lines);
    }
    for service in &file.service {
        let name = format!("{scope}{}", service.name());
        lines.push(format!("service {name}"));
        lines.extend(
            service
                .method
                .iter()
                .map(|method| method_line(&name, method)),
        );
    }
}

fn render_message(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}{}", message.name());
    lines.push(format!("message {name}"));
    if message
        .options
        .as_ref()
        .is_some_and(prost_types::MessageOptions::map_entry)
    {
        lines.push(format!("map_entry {name}"));
    }
    lines.extend(
        message
            .field
            .iter()
            .map(|field| field_line(&name, message, field)),
    );
    let inner = format!("{name}.");
    for enumeration in &message.enum_type {
        render_enum(&inner, enumeration, lines);
    }
    for nested in &message.nested_type {
        render_message(&inner, nested, lines);
    }
}

fn render_enum(scope: &str, enumeration: &EnumDescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}{}", enumeration.name());
    lines.push(format!("enum {name}"));
    lines.extend(
        enumeration
            .value
            .iter()
            .map(|value| format!("value {name}.{} {}", value.name(), value.number())),
    );
}

fn field_line(
    message_name: &str,
    message: &DescriptorProto,
    field: &FieldDescriptorProto,
) -> String {
    let mut line = format!(
        "field {message_name}.{} {} {} {}",
        field.name(),
        field.number(),
        lower_suffix(field.label().as_str_name(), "LABEL_"),
        lower_suffix(field.r#type().as_str_name(), "TYPE_"),
    );
    if !field.type_name().is_empty() {
        line.push(' ');
        line.push_str(absolute(field.type_name()));
    }
    line.push_str(" json=");
    line.push_str(field.json_name());
    let oneof = field
        .oneof_index
        .and_then(|index| usize::try_from(index).ok())
        .and_then(|index| message.oneof_decl.get(index));
    if let Some(oneof) = oneof {
        line.push_str(" oneof=");
        line.push_str(oneof.name());
    }
    if field.proto3_optional() {
        line.push_str(" proto3_optional");
    }
    if field
        .options
        .as_ref()
        .is_some_and(prost_types::FieldOptions::deprecated)
    {
        line.push_str(" deprecated");
    }
    line
}

fn method_line(service_name: &str, method: &MethodDescriptorProto) -> String {
    let stream = |streaming| if streaming { "stream " } else { "" };
    format!(
        "method {service_name}.{} {}{} -> {}{}",
        method.name(),
        stream(method.client_streaming()),
        absolute(method.input_type()),
        stream(method.server_streaming()),
        absolute(method.output_type()),
    )
}

/// A type's full name without the leading dot that descriptors write.
fn absolute(name: &str) -> &str {
    name.strip_prefix('.').unwrap_or(name)
}

fn lower_suffix(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}
