//! Colours of a plot, light and dark.

use plotters::style::RGBColor;

/// The library places everything at whole units; so many of them make a pixel.
pub(super) const FINE: u32 = 8;

/// A line of one pixel, in these units.
pub(super) const HAIR: u32 = FINE;

pub(super) const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
pub(super) const FAINT: RGBColor = RGBColor(0x5f, 0x68, 0x73);
pub(super) const GRID: RGBColor = RGBColor(0xe6, 0xe9, 0xed);
pub(super) const AXIS: RGBColor = RGBColor(0x9a, 0xa3, 0xad);
pub(super) const ROUND: RGBColor = RGBColor(0xb4, 0xbc, 0xc4);
pub(super) const BLUE: RGBColor = RGBColor(0x25, 0x63, 0xeb);
pub(super) const ORANGE: RGBColor = RGBColor(0xd9, 0x5d, 0x0e);
pub(super) const TEAL: RGBColor = RGBColor(0x0f, 0x85, 0x6b);
pub(super) const VIOLET: RGBColor = RGBColor(0x7c, 0x3a, 0xed);
pub(super) const RED: RGBColor = RGBColor(0xc0, 0x1f, 0x1f);

/// What each colour is on a dark background.
const DARK: [(RGBColor, &str); 10] = [
    (INK, "#e6edf3"),
    (FAINT, "#9aa4af"),
    (GRID, "#262c33"),
    (AXIS, "#59636e"),
    (ROUND, "#4d5762"),
    (BLUE, "#6ea8fe"),
    (ORANGE, "#ff9e64"),
    (TEAL, "#4cc9a4"),
    (VIOLET, "#b794f6"),
    (RED, "#ff7b72"),
];

/// Background of a picture that stands alone; a page has its own.
const BACKGROUND: [&str; 2] = ["#ffffff", "#0f1319"];

/// The picture `drawn` by the library, of `width` by `height` pixels, with the rules for the dark theme.
pub(super) fn themed(drawn: &str, (width, height): (u32, u32)) -> String {
    let content = drawn.find('>').map_or("", |end| &drawn[end + 1..]);
    let (fine_width, fine_height) = (width * FINE, height * FINE);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"pagelift-plot\" role=\"img\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {fine_width} {fine_height}\">\n\
         <style>\n{}</style>{content}",
        rules()
    )
}

/// Style rules: the library writes colours as attributes, which rules override.
fn rules() -> String {
    let [light, dark] = BACKGROUND;
    let mut rules = format!(
        "svg.pagelift-plot:root{{background:{light}}}\n\
         @media (prefers-color-scheme:dark){{\nsvg.pagelift-plot:root{{background:{dark}}}\n"
    );
    for (RGBColor(red, green, blue), dark) in DARK {
        let light = format!("#{red:02X}{green:02X}{blue:02X}");
        for attribute in ["fill", "stroke"] {
            rules += &format!(".pagelift-plot [{attribute}=\"{light}\"]{{{attribute}:{dark}}}\n");
        }
    }
    rules + "}\n"
}
