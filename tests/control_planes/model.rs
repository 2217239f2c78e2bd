//! What the vendors' own models say of requests and answers.
//!
//! `models/*.json` are extracts, made by `scripts/control-plane-models` from pinned packages of
//! the vendors. Everything is checked against them in both directions: what is asked of a
//! stand-in, and what it answers. A field that the model does not have is as wrong as a missing
//! one, a value outside of an enumeration, or too long a list.

use quick_xml::Reader;
use quick_xml::events::Event;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

/// One vendor's model.
pub struct Model {
    value: Value,
}

/// Who says it: only the service may fill in what is read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Request,
    Answer,
}

/// Why something is not as the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    Unknown { member: String, path: String },
    Missing { path: String },
    Wrong { path: String },
}

pub fn azure() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::read(include_str!("models/azure.json")))
}

pub fn google() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::read(include_str!("models/google.json")))
}

pub fn ec2() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::read(include_str!("models/ec2.json")))
}

impl Model {
    fn read(text: &str) -> Self {
        Self { value: serde_json::from_str(text).expect("the extract is JSON") }
    }

    /// Finds the first thing in `value` that is not as `object` has it; `method` is what it is
    /// said to or by.
    pub fn check(
        &self,
        value: &Value,
        object: &str,
        method: &str,
        side: Side,
    ) -> Result<(), Misfit> {
        self.check_object(value, object, method, side, "")
    }

    /// The versions of Azure's interface that have this kind of resource.
    pub fn versions(&self, kind: &str) -> Vec<&str> {
        let versions = self.value["versions"][kind].as_array();
        versions.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Google's method of this verb and path below `/compute/v1/`, with its name.
    pub fn method(&self, verb: &str, path: &str) -> Option<(&str, &Value)> {
        let fits = |template: &str| {
            let (given, wanted): (Vec<_>, Vec<_>) =
                (path.split('/').collect(), template.split('/').collect());
            given.len() == wanted.len()
                && given
                    .iter()
                    .zip(wanted)
                    .all(|(one, other)| other.starts_with('{') || *one == other)
        };
        let mut methods = self.value["methods"].as_object()?.iter();
        let found = methods.find(|(_, method)| {
            method["verb"] == verb && method["path"].as_str().is_some_and(fits)
        });
        found.map(|(name, method)| (name.as_str(), method))
    }

    fn check_object(
        &self,
        value: &Value,
        object: &str,
        method: &str,
        side: Side,
        path: &str,
    ) -> Result<(), Misfit> {
        let fields = self.fields(object);
        let Some(map) = value.as_object() else {
            return Err(Misfit::Wrong { path: path.to_string() });
        };
        let below = |name: &str| join(path, name);
        for (name, inner) in map {
            let shape =
                fields.get(name).filter(|shape| side == Side::Answer || shape["read_only"] != true);
            let Some(shape) = shape else {
                return Err(Misfit::Unknown { member: name.clone(), path: below(name) });
            };
            // What is not set may be shown as null.
            if side == Side::Answer && inner.is_null() {
                continue;
            }
            self.check_shape(inner, shape, method, side, &below(name))?;
        }
        let missing = fields.iter().find(|(name, shape)| {
            side == Side::Request && is_required(shape, method) && !map.contains_key(*name)
        });
        match missing {
            Some((name, _)) => Err(Misfit::Missing { path: below(name) }),
            None => Ok(()),
        }
    }

    fn check_shape(
        &self,
        value: &Value,
        shape: &Value,
        method: &str,
        side: Side,
        path: &str,
    ) -> Result<(), Misfit> {
        let fits = match shape["kind"].as_str().unwrap_or_default() {
            "any" => true,
            "text" => value.as_str().is_some_and(|text| is_text(text, shape)),
            "digits" => value.as_str().is_some_and(|text| text.parse::<u64>().is_ok()),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "texts" => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
            "object" => {
                let object = shape["name"].as_str().unwrap_or_default();
                return self.check_object(value, object, method, side, path);
            }
            "list" => {
                let items = value.as_array().map(Vec::as_slice);
                for (index, item) in items.unwrap_or_default().iter().enumerate() {
                    let below = format!("{path}[{index}]");
                    self.check_shape(item, &shape["of"], method, side, &below)?;
                }
                items.is_some()
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(Misfit::Wrong { path: path.to_string() }) }
    }

    fn fields(&self, object: &str) -> &Map<String, Value> {
        let fields = self.value["objects"][object].as_object();
        fields.unwrap_or_else(|| panic!("the model has no \"{object}\""))
    }

    /// Checks the flat parameters of an EC2 call; says what is wrong with them.
    pub fn check_query(&self, parameters: &HashMap<String, String>) -> Result<(), String> {
        let action = parameters.get("Action").map(String::as_str).unwrap_or_default();
        let Some(input) = self.value["actions"][action]["input"].as_str() else {
            return Err(format!("the model has no action {action}"));
        };
        if parameters.get("Version").map(String::as_str) != self.value["version"].as_str() {
            return Err("the version is another".into());
        }
        let mut tree = Value::Object(Map::new());
        for (name, text) in parameters {
            if name != "Action" && name != "Version" {
                let parts = name.split('.');
                let leaf = parts.fold(&mut tree, |node, part| &mut node[part]);
                *leaf = Value::from(text.as_str());
            }
        }
        self.check_flat(&tree, &serde_json::json!({"kind": "object", "name": input}), action)
    }

    fn check_flat(&self, node: &Value, shape: &Value, path: &str) -> Result<(), String> {
        match shape["kind"].as_str().unwrap_or_default() {
            "any" => Ok(()),
            "object" => {
                let fields = self.fields(shape["name"].as_str().unwrap_or_default());
                let map = node.as_object().ok_or_else(|| format!("{path} has no members"))?;
                for (name, inner) in map {
                    let below = join(path, name);
                    let shape = fields.get(name).ok_or_else(|| format!("{below} is unknown"))?;
                    self.check_flat(inner, shape, &below)?;
                }
                let mut fields = fields.iter();
                let missing =
                    fields.find(|(name, shape)| is_required(shape, "") && !map.contains_key(*name));
                missing.map_or(Ok(()), |(name, _)| Err(format!("{} is missing", join(path, name))))
            }
            "list" => {
                let map = node.as_object().ok_or_else(|| format!("{path} is no list"))?;
                let most = shape["most"].as_u64().unwrap_or(u64::MAX);
                for number in 1..=map.len() {
                    let item = map.get(&number.to_string());
                    let item = item.ok_or_else(|| format!("{path}.{number} is missing"))?;
                    if u64::try_from(number).is_ok_and(|number| number > most) {
                        return Err(format!("{path} has more than {most}"));
                    }
                    self.check_flat(item, &shape["of"], &format!("{path}.{number}"))?;
                }
                Ok(())
            }
            kind => {
                let text = node.as_str().ok_or_else(|| format!("{path} has members"))?;
                match is_leaf(text, kind, shape) {
                    true => Ok(()),
                    false => Err(format!("{path} cannot be \"{text}\"")),
                }
            }
        }
    }

    /// Checks what a stand-in answers to an EC2 call.
    pub fn check_answer(&self, action: &str, xml: &str) -> Result<(), String> {
        let Some(output) = self.value["actions"][action]["output"].as_str() else {
            return Ok(());
        };
        let root = Tree::parse(xml)?;
        self.check_tree(&root, &serde_json::json!({"kind": "object", "name": output}), action)
    }

    fn check_tree(&self, tree: &Tree, shape: &Value, path: &str) -> Result<(), String> {
        match shape["kind"].as_str().unwrap_or_default() {
            "any" => Ok(()),
            "object" => {
                let fields = self.fields(shape["name"].as_str().unwrap_or_default());
                for child in tree.children.iter().filter(|child| child.name != "requestId") {
                    let below = join(path, &child.name);
                    let shape = fields.get(&child.name);
                    let shape = shape.ok_or_else(|| format!("{below} is unknown"))?;
                    self.check_tree(child, shape, &below)?;
                }
                Ok(())
            }
            "list" => {
                for child in &tree.children {
                    if child.name != "item" {
                        return Err(format!("{path} has the element {}", child.name));
                    }
                    self.check_tree(child, &shape["of"], path)?;
                }
                Ok(())
            }
            kind => {
                let text = tree.text.trim();
                match text.is_empty() || is_leaf(text, kind, shape) {
                    true => Ok(()),
                    false => Err(format!("{path} cannot be \"{text}\"")),
                }
            }
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

fn is_required(shape: &Value, method: &str) -> bool {
    let mut names = shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    names.any(|name| name == "*" || name == method)
}

fn is_leaf(text: &str, kind: &str, shape: &Value) -> bool {
    match kind {
        "text" => is_text(text, shape),
        "integer" => text.parse::<i64>().is_ok(),
        "number" => text.parse::<f64>().is_ok(),
        "boolean" => ["true", "false"].contains(&text),
        _ => false,
    }
}

fn is_text(text: &str, shape: &Value) -> bool {
    let listed = shape["values"].as_array().is_none_or(|values| values.iter().any(|v| v == text));
    listed && (shape["pattern"] != LABEL || is_label(text))
}

/// The pattern of names in Google's model.
const LABEL: &str = "[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?";

fn is_label(name: &str) -> bool {
    let body = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(body)
        && !name.ends_with('-')
}

/// An element of an XML document.
#[derive(Default)]
struct Tree {
    name: String,
    text: String,
    children: Vec<Tree>,
}

impl Tree {
    fn parse(xml: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(xml);
        let mut open = vec![Self::default()];
        let named = |name: &[u8]| Self {
            name: String::from_utf8_lossy(name).into_owned(),
            ..Self::default()
        };
        loop {
            match reader.read_event().map_err(|error| error.to_string())? {
                Event::Start(start) => open.push(named(start.local_name().as_ref())),
                Event::Empty(empty) => {
                    let parent = open.last_mut().expect("the document");
                    parent.children.push(named(empty.local_name().as_ref()));
                }
                Event::Text(piece) => {
                    let parent = open.last_mut().expect("the document");
                    parent.text.push_str(&String::from_utf8_lossy(&piece));
                }
                Event::End(_) => {
                    let closed = open.pop().expect("an element");
                    let parent = open.last_mut().ok_or("it is not balanced")?;
                    parent.children.push(closed);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let mut document = open.pop().ok_or("it is not balanced")?;
        document.children.pop().ok_or_else(|| "it is empty".into())
    }
}
