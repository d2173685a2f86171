//! Text as libvirt writes it: two spaces an indent, single quotes, one element a line.

use std::fmt::{Display, Write as _};

/// The text of a document, growing.
#[derive(Debug)]
pub(crate) struct Writer {
    out: String,
    indent: usize,
}

impl Writer {
    /// A document whose outermost elements are indented by `indent` spaces.
    pub(crate) fn new(indent: usize) -> Self {
        Self {
            out: String::new(),
            indent,
        }
    }

    /// Begins an element; what comes next decides its form.
    pub(crate) fn element<'w>(&'w mut self, name: &'static str) -> Tag<'w> {
        let indent = self.indent;
        let _ = write!(self.out, "{:indent$}<{name}", "");
        Tag { writer: self, name }
    }

    /// An element of text, if there is a text.
    pub(crate) fn text_of(&mut self, name: &'static str, text: Option<impl Display>) {
        if let Some(text) = text {
            self.element(name).text(text);
        }
    }

    /// An empty element, if it is to be there.
    pub(crate) fn mark(&mut self, name: &'static str, there: bool) {
        if there {
            self.element(name).empty();
        }
    }

    /// Elements that are a text already, made for this indent.
    pub(crate) fn elements(&mut self, text: impl FnOnce(usize) -> String) {
        let text = text(self.indent);
        self.out.push_str(&text);
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        self.out
    }

    fn escaped(&mut self, value: impl Display, lines_stay: bool) {
        for c in value.to_string().chars() {
            match c {
                '&' => self.out.push_str("&amp;"),
                '<' => self.out.push_str("&lt;"),
                '>' => self.out.push_str("&gt;"),
                '"' => self.out.push_str("&quot;"),
                '\'' => self.out.push_str("&apos;"),
                '\t' | '\n' if lines_stay => self.out.push(c),
                '\t' | '\n' | '\r' => {
                    let _ = write!(self.out, "&#{};", u32::from(c));
                }
                // XML has no way to write other control characters.
                c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
                c => self.out.push(c),
            }
        }
    }
}

/// An element whose name is written, and whose attributes follow.
#[derive(Debug)]
#[must_use = "an element is to be ended"]
pub(crate) struct Tag<'w> {
    writer: &'w mut Writer,
    name: &'static str,
}

impl Tag<'_> {
    /// An attribute.
    pub(crate) fn attribute(self, name: &str, value: impl Display) -> Self {
        let _ = write!(self.writer.out, " {name}='");
        self.writer.escaped(value, false);
        self.writer.out.push('\'');
        self
    }

    /// An attribute, if there is a value.
    pub(crate) fn attribute_of(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.attribute(name, value),
            None => self,
        }
    }

    /// Ends an element that holds nothing.
    pub(crate) fn empty(self) {
        self.writer.out.push_str("/>\n");
    }

    /// Ends an element that holds text.
    pub(crate) fn text(self, text: impl Display) {
        self.writer.out.push('>');
        self.writer.escaped(text, true);
        let _ = writeln!(self.writer.out, "</{}>", self.name);
    }

    /// Ends an element that holds others; without any it is written as an empty one.
    pub(crate) fn body(self, body: impl FnOnce(&mut Writer)) {
        let Self { writer, name } = self;
        writer.out.push_str(">\n");
        let before = writer.out.len();
        writer.indent += 2;
        body(writer);
        writer.indent -= 2;
        if writer.out.len() == before {
            writer.out.truncate(before - 2);
            writer.out.push_str("/>\n");
        } else {
            let indent = writer.indent;
            let _ = writeln!(writer.out, "{:indent$}</{name}>", "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_have_three_forms() {
        let mut w = Writer::new(0);
        w.element("a").attribute("b", "it's").body(|w| {
            w.element("c").text("1 < 2\n");
            w.element("d").attribute_of("e", None::<u8>).body(|_| {});
        });
        assert_eq!(
            w.finish(),
            "<a b='it&apos;s'>\n  <c>1 &lt; 2\n</c>\n  <d/>\n</a>\n"
        );
    }
}
