//! EC2's answers as a tree: they are small, flat and without attributes of interest.

use quick_xml::Reader;
use quick_xml::events::Event;

/// One element: its text and children, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

/// Answers nest this deep at most; more is no answer of EC2.
const DEPTH_MAX: usize = 32;

impl Element {
    /// The root element of a document.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(text);
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event().map_err(|error| error.to_string())? {
                Event::Start(start) if open.len() < DEPTH_MAX => {
                    let name = String::from_utf8_lossy(start.local_name().as_ref()).into_owned();
                    open.push(Self { name, ..Self::default() });
                }
                Event::Start(_) => return Err("it is nested too deeply".into()),
                Event::Empty(empty) => {
                    let name = String::from_utf8_lossy(empty.local_name().as_ref()).into_owned();
                    last(&mut open).children.push(Self { name, ..Self::default() });
                }
                Event::Text(piece) => {
                    let decoded = piece.xml_content(quick_xml::XmlVersion::Implicit1_0);
                    last(&mut open).text.push_str(&decoded.map_err(|error| error.to_string())?);
                }
                Event::CData(piece) => {
                    last(&mut open).text.push_str(&String::from_utf8_lossy(&piece));
                }
                Event::GeneralRef(reference) => {
                    let name = String::from_utf8_lossy(&reference).into_owned();
                    last(&mut open).text.push_str(&resolve(&name)?);
                }
                Event::End(_) => {
                    let Some(closed) = open.pop() else { return Err("it is not balanced".into()) };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(closed),
                        None => return Err("it is not balanced".into()),
                    }
                }
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        match open.pop() {
            Some(document) if open.is_empty() => {
                document.children.into_iter().next().ok_or_else(|| "it is empty".into())
            }
            _ => Err("it is not balanced".into()),
        }
    }

    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first child of that name, if it has any.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim()).filter(|text| !text.is_empty())
    }

    /// The items of a set: EC2 writes lists as `<set><item>…</item>…</set>`.
    pub fn items(&self, set: &str) -> impl Iterator<Item = &Self> {
        let children = self.child(set).map(|set| set.children.as_slice()).unwrap_or_default();
        children.iter().filter(|child| child.name == "item")
    }
}

fn last(open: &mut [Element]) -> &mut Element {
    open.last_mut().expect("the document itself stays at the bottom")
}

fn resolve(name: &str) -> Result<String, String> {
    if let Some(text) = quick_xml::escape::resolve_predefined_entity(name) {
        return Ok(text.into());
    }
    let number = name.strip_prefix('#').and_then(|number| match number.strip_prefix('x') {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => number.parse().ok(),
    });
    let character = number.and_then(char::from_u32);
    character.map(String::from).ok_or_else(|| format!("it has the unknown entity \"{name}\""))
}

#[cfg(test)]
mod tests {
    use crate::snapshot::xml::Element;

    #[test]
    fn sets_texts_and_entities_are_read() {
        let text = "<?xml version=\"1.0\"?>\n<R xmlns=\"x\"><snapshotSet>\n <item><id>a&amp;b&#x41;</id>\
                    <empty/></item><item><id> c </id></item></snapshotSet></R>";
        let root = Element::parse(text).expect("xml");
        let ids: Vec<_> = root.items("snapshotSet").filter_map(|item| item.text("id")).collect();
        assert_eq!(ids, ["a&bA", "c"]);
        let first = root.items("snapshotSet").next().expect("item");
        assert_eq!((first.text("empty"), first.text("none")), (None, None));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for text in ["", "<a><b></a>", "<a>", "<a>&nope;</a>", &"<a>".repeat(64)] {
            assert!(Element::parse(text).is_err(), "{text}");
        }
    }
}
