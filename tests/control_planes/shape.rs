//! What a JSON body may and must hold.

use serde_json::Value;

/// The form of a JSON value.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    Text,
    Integer,
    Boolean,
    /// An object of any keys with texts.
    Texts,
    Object(&'static [Field]),
    List(&'static Shape),
}

/// A field of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub required: bool,
}

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    Unknown { member: String, path: String },
    Missing { path: String },
    Wrong { path: String },
}

pub const fn required(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true }
}

pub const fn optional(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false }
}

/// Finds the first thing in `value` that does not fit; `path` is where it stands.
pub fn check(value: &Value, shape: &Shape, path: &str) -> Result<(), Misfit> {
    let fits = match shape {
        Shape::Text => value.is_string(),
        Shape::Integer => value.is_i64() || value.is_u64(),
        Shape::Boolean => value.is_boolean(),
        Shape::Texts => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
        Shape::Object(fields) => return check_object(value, fields, path),
        Shape::List(inner) => {
            let Some(items) = value.as_array() else {
                return Err(Misfit::Wrong { path: path.to_string() });
            };
            for (index, item) in items.iter().enumerate() {
                check(item, inner, &format!("{path}[{index}]"))?;
            }
            true
        }
    };
    if fits { Ok(()) } else { Err(Misfit::Wrong { path: path.to_string() }) }
}

fn check_object(value: &Value, fields: &[Field], path: &str) -> Result<(), Misfit> {
    let Some(map) = value.as_object() else {
        return Err(Misfit::Wrong { path: path.to_string() });
    };
    let below = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
    for (name, inner) in map {
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            return Err(Misfit::Unknown { member: name.clone(), path: below(name) });
        };
        check(inner, &field.shape, &below(name))?;
    }
    match fields.iter().find(|field| field.required && !map.contains_key(field.name)) {
        Some(field) => Err(Misfit::Missing { path: below(field.name) }),
        None => Ok(()),
    }
}
