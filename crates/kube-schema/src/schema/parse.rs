//! Reads the generated table text. The text is part of the program, so a fault in it is a bug: these
//! functions may assume what the generator guarantees, and the tests parse the real file.

use std::collections::HashMap;

use super::{Field, ListType, Shape, Tables, Type, TypeRef};

pub(super) fn parse(text: &'static str) -> Tables {
    let lines = || {
        text.lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty())
    };
    let by_name: HashMap<&'static str, TypeRef> = lines()
        .filter_map(|line| line.strip_prefix("T "))
        .enumerate()
        .map(|(index, rest)| (rest.split(' ').next().unwrap_or(rest), TypeRef(index)))
        .collect();
    let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
    for line in lines() {
        if let Some(rest) = line.strip_prefix("T ") {
            let (name, attributes) = rest.split_once(' ').unwrap_or((rest, ""));
            types.push(Type {
                name,
                atomic: attributes == "atomic",
                fields: Vec::new(),
            });
        } else if let Some(owner) = types.last_mut() {
            owner.fields.push(field(line, &by_name));
        }
    }
    for ty in &mut types {
        ty.fields.sort_by_key(|field| field.name);
        ty.fields.shrink_to_fit();
    }
    Tables { types, by_name }
}

fn field(line: &'static str, by_name: &HashMap<&'static str, TypeRef>) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let shape = shape(words.next().unwrap_or_default(), by_name);
    let proto_path = words
        .next()
        .unwrap_or_default()
        .split('.')
        .filter_map(|number| number.parse().ok())
        .filter(|number| *number != 0)
        .collect();
    let mut field = Field {
        name,
        shape,
        proto_path,
        required: false,
        zero_is_unset: false,
        list_type: None,
        list_keys: Vec::new(),
        atomic_map: false,
        patch_merge: false,
        patch_retain_keys: false,
        patch_merge_key: None,
        values: Vec::new(),
    };
    for word in words {
        attribute(&mut field, word);
    }
    field
}

fn attribute(field: &mut Field, word: &'static str) {
    let (key, value) = word.split_once('=').unwrap_or((word, ""));
    let (head, tail) = value.split_once(':').unwrap_or((value, ""));
    match key {
        "r" => field.required = true,
        "z" => field.zero_is_unset = true,
        "l" => {
            field.list_type = match head {
                "set" => Some(ListType::Set),
                "map" => Some(ListType::Map),
                _ => Some(ListType::Atomic),
            };
            field.list_keys = tail.split(',').filter(|key| !key.is_empty()).collect();
        }
        "m" => field.atomic_map = head == "atomic",
        "p" => {
            field.patch_merge = head.split(',').any(|strategy| strategy == "merge");
            field.patch_retain_keys = head.split(',').any(|strategy| strategy == "retainKeys");
            field.patch_merge_key = (!tail.is_empty()).then_some(tail);
        }
        "e" => field.values = value.split(',').collect(),
        _ => {}
    }
}

fn shape(code: &'static str, by_name: &HashMap<&'static str, TypeRef>) -> Shape {
    if let Some(inner) = code.strip_prefix('[') {
        return Shape::List(Box::new(shape(inner, by_name)));
    }
    if let Some(inner) = code.strip_prefix('{') {
        return Shape::Map(Box::new(shape(inner, by_name)));
    }
    if let Some(name) = code.strip_prefix('@') {
        return by_name
            .get(name)
            .map_or(Shape::Raw, |reference| Shape::Object(*reference));
    }
    match code {
        "s" => Shape::String,
        "b" => Shape::Bool,
        "i32" => Shape::Int32,
        "i64" => Shape::Int64,
        "f64" => Shape::Double,
        "y" => Shape::Bytes,
        "t" => Shape::Time,
        "u" => Shape::MicroTime,
        "q" => Shape::Quantity,
        "n" => Shape::IntOrString,
        "F" => Shape::Fields,
        _ => Shape::Raw,
    }
}
