//! Elements whose attributes and children are taken one by one, so that what is left over is noticed.
//!
//! A description that says more than the reader understands must not be half obeyed: a device that is
//! dropped in silence is another machine. [`Element::finish`] therefore refuses leftovers by their path.

use roxmltree::{Attribute, Document, Node, ParsingOptions};

/// The most nodes that a document may have: a guest with a thousand disks needs a tenth of it.
const NODES_MAX: u32 = 100_000;

/// What a document that is XML, but not of the expected form, is refused with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// An element or attribute that the reader does not know, by its path.
    Unknown(String),
    /// An element or attribute that must be there, by its path.
    Missing(String),
    /// A value that cannot be used: the path, and the value.
    Invalid(String, String),
    /// An element that may be there once, by its path.
    Twice(String),
}

/// Where and why a text is no XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Syntax {
    /// The line of the fault, from 1.
    pub(crate) line: u32,
    /// The column of the fault, from 1.
    pub(crate) column: u32,
    /// What is wrong there.
    pub(crate) what: String,
    /// The line itself.
    pub(crate) excerpt: String,
}

impl Syntax {
    /// The fault in libvirt's form: the place and the reason, the line, and a mark below the column.
    pub(crate) fn message(&self) -> String {
        let dashes = "-".repeat(self.column.saturating_sub(1).min(80) as usize);
        format!(
            "at line {}: {}\n{}\n{dashes}^",
            self.line, self.what, self.excerpt
        )
    }
}

/// Parses a document. Document types, and with them entities, are refused.
pub(crate) fn parse(text: &str) -> Result<Document<'_>, Syntax> {
    let options = ParsingOptions {
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    Document::parse_with_options(text, options).map_err(|error| {
        let at = error.pos();
        let line = text
            .lines()
            .nth(at.row.saturating_sub(1) as usize)
            .unwrap_or_default();
        let excerpt = line.chars().take(80).collect();
        Syntax {
            line: at.row,
            column: at.col,
            what: error.to_string(),
            excerpt,
        }
    })
}

/// An element of which attributes and children are taken until nothing is left.
#[derive(Debug)]
pub(crate) struct Element<'a> {
    node: Node<'a, 'a>,
    path: String,
    attributes: Vec<(&'a str, &'a str)>,
    children: Vec<Node<'a, 'a>>,
}

impl<'a> Element<'a> {
    /// The root of a document.
    pub(crate) fn root(document: &'a Document<'a>) -> Self {
        let node = document.root_element();
        Self::new(node, format!("/{}", node.tag_name().name()))
    }

    fn new(node: Node<'a, 'a>, path: String) -> Self {
        // No attribute in a namespace means anything here: under its bare name it would.
        let name = |a: &Attribute<'a, 'a>| a.namespace().map_or_else(|| a.name(), |_| "xmlns:*");
        let attributes = node.attributes().map(|a| (name(&a), a.value())).collect();
        let children = node.children().filter(Node::is_element).collect();
        Self {
            node,
            path,
            attributes,
            children,
        }
    }

    fn below(&self, node: Node<'a, 'a>) -> Self {
        Self::new(node, format!("{}/{}", self.path, node.tag_name().name()))
    }

    /// The local name.
    pub(crate) fn name(&self) -> &'a str {
        self.node.tag_name().name()
    }

    /// Where the element is in its document, for messages.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Takes an attribute.
    pub(crate) fn attribute(&mut self, name: &str) -> Option<&'a str> {
        let at = self.attributes.iter().position(|(n, _)| *n == name)?;
        Some(self.attributes.remove(at).1)
    }

    /// Takes an attribute that must be there.
    pub(crate) fn required(&mut self, name: &str) -> Result<&'a str, Malformed> {
        self.attribute(name)
            .ok_or_else(|| Malformed::Missing(format!("{}/@{name}", self.path)))
    }

    /// Takes an attribute and reads it; one that cannot be read is refused.
    pub(crate) fn read<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Malformed> {
        let Some(value) = self.attribute(name) else {
            return Ok(None);
        };
        let path = || format!("{}/@{name}", self.path);
        read(value)
            .map(Some)
            .ok_or_else(|| Malformed::Invalid(path(), value.to_owned()))
    }

    /// As [`Self::read`], for an attribute that must be there.
    pub(crate) fn read_required<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Malformed> {
        let path = format!("{}/@{name}", self.path);
        self.read(name, read)?.ok_or(Malformed::Missing(path))
    }

    /// Takes the one child of this name, which is in no namespace.
    pub(crate) fn child(&mut self, name: &str) -> Result<Option<Self>, Malformed> {
        let mut all = self.children(name);
        match (all.pop(), all.is_empty()) {
            (child, true) => Ok(child),
            (_, false) => Err(Malformed::Twice(format!("{}/{name}", self.path))),
        }
    }

    /// Takes the one child of this name, which must be there.
    pub(crate) fn child_required(&mut self, name: &str) -> Result<Self, Malformed> {
        self.child(name)?
            .ok_or_else(|| Malformed::Missing(format!("{}/{name}", self.path)))
    }

    /// Takes all children of this name, in their order.
    pub(crate) fn children(&mut self, name: &str) -> Vec<Self> {
        self.children_of(None, name)
    }

    /// Takes all children of this name and namespace, in their order.
    pub(crate) fn children_of(&mut self, namespace: Option<&str>, name: &str) -> Vec<Self> {
        let is_it = |node: &Node<'_, '_>| {
            node.tag_name().name() == name && node.tag_name().namespace() == namespace
        };
        let (taken, left) = self.children.drain(..).partition(is_it);
        self.children = left;
        let taken: Vec<Node<'a, 'a>> = taken;
        taken.into_iter().map(|node| self.below(node)).collect()
    }

    /// Takes the one child of this name, which holds nothing but text.
    pub(crate) fn text_of(&mut self, name: &str) -> Result<Option<String>, Malformed> {
        let Some(child) = self.child(name)? else {
            return Ok(None);
        };
        let text = child.text();
        child.finish()?;
        Ok(Some(text))
    }

    /// Takes the one child of this name, which holds nothing at all, and says whether it was there.
    pub(crate) fn mark(&mut self, name: &str) -> Result<bool, Malformed> {
        let Some(child) = self.child(name)? else {
            return Ok(false);
        };
        child.finish()?;
        Ok(true)
    }

    /// The text directly inside the element, without comments.
    pub(crate) fn text(&self) -> String {
        self.node
            .children()
            .filter(Node::is_text)
            .filter_map(|n| n.text())
            .collect()
    }

    /// The element as it stands in the text of its document.
    pub(crate) fn text_in(&self, document: &'a str) -> &'a str {
        &document[self.node.range()]
    }

    /// The element is not what the reader supports.
    pub(crate) fn unknown(&self) -> Malformed {
        Malformed::Unknown(self.path.clone())
    }

    /// A value inside the element cannot be used.
    pub(crate) fn invalid(&self, value: impl Into<String>) -> Malformed {
        Malformed::Invalid(self.path.clone(), value.into())
    }

    /// Ends the reading: attributes and children that nobody took are refused.
    pub(crate) fn finish(self) -> Result<(), Malformed> {
        if let Some((name, _)) = self.attributes.first() {
            return Err(Malformed::Unknown(format!("{}/@{name}", self.path)));
        }
        match self.children.first() {
            Some(child) => Err(self.below(*child).unknown()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_took_is_refused_by_its_path() {
        let document = parse("<a x='1' y='2'><b/><c>t<!-- n -->u</c></a>").unwrap();
        let mut root = Element::root(&document);
        assert_eq!(root.attribute("x"), Some("1"));
        assert_eq!(root.text_of("c").unwrap().as_deref(), Some("tu"));
        assert_eq!(root.attribute("y"), Some("2"));
        assert_eq!(root.finish(), Err(Malformed::Unknown("/a/b".into())));
        let mut root = Element::root(&document);
        assert!(root.mark("b").unwrap());
        root.child("c").unwrap().unwrap().finish().unwrap();
        assert_eq!(root.finish(), Err(Malformed::Unknown("/a/@x".into())));
    }

    #[test]
    fn an_element_that_is_there_twice_is_refused() {
        let document = parse("<a><b/><b/></a>").unwrap();
        let twice = Element::root(&document).child("b").unwrap_err();
        assert_eq!(twice, Malformed::Twice("/a/b".into()));
    }

    #[test]
    fn a_fault_is_shown_where_it_is() {
        let syntax = parse("<a>\n  <b x=1/>\n</a>").unwrap_err();
        assert_eq!((syntax.line, syntax.excerpt.as_str()), (2, "  <b x=1/>"));
        assert!(
            syntax.message().starts_with("at line 2: "),
            "{}",
            syntax.message()
        );
        assert!(syntax.message().ends_with("-^"), "{}", syntax.message());
    }

    #[test]
    fn document_types_are_refused() {
        assert!(parse("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>").is_err());
    }
}
