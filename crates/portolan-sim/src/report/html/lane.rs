//! One lane as HTML: its name, its picture, a readout that is also the legend, and its numbers as a table. The readout of
//! the script is read from the table, so picture, readout and table are one set of values.

use std::fmt::Write;

use super::{
    markup::{percent, text},
    path::{HEIGHT, area, line, stacked, y},
};
use crate::report::figure::{Curve, Drawing, Figure, Lane, Span, Style, Tone};

/// Labels of spans narrower than this share of the axis (in parts per hundred) are left to the table.
const NARROWEST_LABEL: u64 = 3;

/// Writes a lane of `figure`.
pub fn write(html: &mut String, figure: &Figure, lane: &Lane) {
    match &lane.drawing {
        Drawing::Curves(curves) => write_curves(html, figure, lane, curves),
        Drawing::Spans(spans) => write_spans(html, figure, lane, spans),
    }
}

/// The style class of a tone.
pub fn class(tone: Tone) -> String {
    match tone {
        Tone::Region(index) => format!("r{}", index % REGION_TONES),
        Tone::Bound => "bound".to_owned(),
        Tone::Good => "good".to_owned(),
        Tone::Limited => "lim".to_owned(),
        Tone::Degraded => "deg".to_owned(),
        Tone::Bad => "bad".to_owned(),
        Tone::Order => "ord".to_owned(),
        Tone::Healing => "heal".to_owned(),
    }
}

/// Region colours that the style sheet has; further regions begin again.
const REGION_TONES: usize = 8;

fn write_curves(html: &mut String, figure: &Figure, lane: &Lane, curves: &[Curve]) {
    let top = lane.top();
    let label = format!("{}, {}: {}", lane.title, lane.unit, curves.iter().map(most).collect::<Vec<_>>().join(", "));
    html.push_str("<div class=\"lane\"><div class=\"name\">");
    let _ = write!(
        html,
        "<b>{}</b> <span class=\"unit\">{}</span><div class=\"keys\">",
        text(&lane.title),
        text(&lane.unit)
    );
    for (index, curve) in curves.iter().enumerate() {
        let most = curve.values.iter().flatten().max().map_or("–".to_owned(), u64::to_string);
        let _ = write!(
            html,
            "<span class=\"key\"><i class=\"{} {}\"></i>{} <b data-c=\"{}\" data-m=\"{most}\">{most}</b></span>",
            class(curve.tone),
            style(curve.style),
            text(&curve.name),
            index + 1,
        );
    }
    let _ = write!(
        html,
        "</div></div><div class=\"plot\"><svg viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">",
        figure.steps.max(1),
        text(label),
    );
    write_bands(html, figure);
    write_shapes(html, curves, top);
    let _ = write!(html, "</svg><span class=\"top\">{top}</span>");
    write_bounds(html, curves, top);
    html.push_str("</div><details class=\"numbers\"><summary>numbers</summary>");
    write_table(html, figure, lane, curves);
    html.push_str("</details></div>\n");
}

fn most(curve: &Curve) -> String {
    let most = curve.values.iter().flatten().max();
    most.map_or(format!("{} nothing", curve.name), |most| format!("{} at most {most}", curve.name))
}

const fn style(style: Style) -> &'static str {
    match style {
        Style::Stacked | Style::Area => "fill",
        Style::Line => "line",
        Style::Dashed => "dash",
    }
}

fn write_bands(html: &mut String, figure: &Figure) {
    for band in &figure.bands {
        let scale = |ms: u64| format!("{}.{:03}", ms / figure.step_ms, ms % figure.step_ms * 1000 / figure.step_ms);
        let (from, width) = (scale(band.from_ms), scale(band.to_ms.saturating_sub(band.from_ms)));
        let _ = write!(html, "<rect class=\"band\" x=\"{from}\" width=\"{width}\" y=\"0\" height=\"{HEIGHT}\"/>");
    }
}

fn write_shapes(html: &mut String, curves: &[Curve], top: u64) {
    let layers: Vec<&Curve> = curves.iter().filter(|curve| curve.style == Style::Stacked).collect();
    let sums = stacked(layers.iter().map(|curve| curve.values.as_slice()));
    // The highest sum first: each later area covers all but its own part.
    let mut shape = |tone: Tone, kind: &str, path: &str| {
        if !path.is_empty() {
            let _ = write!(html, "<path class=\"{} {kind}\" d=\"{path}\"/>", class(tone));
        }
    };
    for (curve, sum) in layers.iter().zip(&sums).rev() {
        if curve.values.iter().flatten().any(|value| *value > 0) {
            shape(curve.tone, "fill", &area(sum, top));
        }
    }
    for curve in curves {
        match curve.style {
            Style::Stacked => {}
            Style::Area => shape(curve.tone, "fill soft", &area(&curve.values, top)),
            Style::Line => shape(curve.tone, "line", &line(&curve.values, top)),
            Style::Dashed => shape(curve.tone, "line dash", &line(&curve.values, top)),
        }
    }
}

/// Names each bound at its last height.
fn write_bounds(html: &mut String, curves: &[Curve], top: u64) {
    let bounds = curves.iter().filter(|curve| curve.tone == Tone::Bound && curve.style != Style::Area);
    for curve in bounds {
        let Some(last) = curve.values.iter().rev().flatten().next() else { continue };
        let _ = write!(
            html,
            "<span class=\"mark\" style=\"top:{}\">{} {last}</span>",
            percent(y(*last, top), HEIGHT),
            text(&curve.name),
        );
    }
}

fn write_table(html: &mut String, figure: &Figure, lane: &Lane, curves: &[Curve]) {
    let _ = write!(
        html,
        "<div class=\"scroll\"><table><caption>{}, {}</caption><thead><tr><th scope=\"col\">s</th>",
        text(&lane.title),
        text(&lane.unit)
    );
    for curve in curves {
        let _ = write!(html, "<th scope=\"col\">{}</th>", text(&curve.name));
    }
    html.push_str("</tr></thead><tbody>");
    for step in 0..figure.steps {
        let _ = write!(html, "<tr><th scope=\"row\">{}</th>", seconds(step as u64 * figure.step_ms));
        for curve in curves {
            let _ = match curve.values.get(step).copied().flatten() {
                Some(value) => write!(html, "<td>{value}</td>"),
                None => write!(html, "<td>–</td>"),
            };
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
}

/// Spans on one row per subject; the first row carries the lane's name.
fn write_spans(html: &mut String, figure: &Figure, lane: &Lane, spans: &[Span]) {
    let mut rows: Vec<&str> = Vec::new();
    for span in spans {
        if !rows.contains(&span.row.as_str()) {
            rows.push(&span.row);
        }
    }
    html.push_str("<div class=\"lane spans\"><div class=\"name\">");
    let _ = write!(html, "<b>{}</b> <span class=\"unit\">{}</span></div>", text(&lane.title), text(&lane.unit));
    html.push_str("<div class=\"rows\">");
    if rows.is_empty() {
        html.push_str("<p class=\"none\">nothing to show</p>");
    }
    for row in rows {
        let of_row: Vec<&Span> = spans.iter().filter(|span| span.row == row).collect();
        write_row(html, figure, row, &of_row);
    }
    html.push_str("</div>");
    if !spans.is_empty() {
        html.push_str("<details class=\"numbers\"><summary>numbers</summary>");
        write_span_table(html, lane, spans);
        html.push_str("</details>");
    }
    html.push_str("</div>\n");
}

fn write_row(html: &mut String, figure: &Figure, row: &str, spans: &[&Span]) {
    let end = figure.end_ms().max(1);
    let said: Vec<String> =
        spans.iter().take(8).map(|span| format!("{} from {} s", span.label, seconds(span.from_ms))).collect();
    let _ = write!(
        html,
        "<div class=\"row\"><span class=\"of\">{}</span><div class=\"plot bar\"><svg viewBox=\"0 0 {end} 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}: {}\">",
        text(row),
        text(row),
        text(said.join(", ")),
    );
    for span in spans.iter().filter(|span| span.to_ms > span.from_ms) {
        let width = span.to_ms - span.from_ms;
        let _ = write!(
            html,
            "<rect class=\"{} fill\" x=\"{}\" width=\"{width}\" y=\"0\" height=\"10\"/>",
            class(span.tone),
            span.from_ms
        );
    }
    html.push_str("</svg>");
    for (index, span) in spans.iter().enumerate() {
        let moment = span.to_ms <= span.from_ms;
        let at = percent(span.from_ms, end);
        if moment {
            let _ = write!(html, "<i class=\"tick {}\" style=\"left:{at}\"></i>", class(span.tone));
        }
        let next = spans.get(index + 1).map_or(end, |next| next.from_ms).max(span.from_ms);
        let room = if moment { next } else { span.to_ms }.saturating_sub(span.from_ms);
        if room * 100 / end >= NARROWEST_LABEL {
            let kind = if moment { "label beside" } else { "label" };
            let _ = write!(
                html,
                "<span class=\"{kind}\" style=\"left:{at};max-width:{}\">{}</span>",
                percent(room, end),
                text(&span.label)
            );
        }
    }
    html.push_str("</div></div>");
}

fn write_span_table(html: &mut String, lane: &Lane, spans: &[Span]) {
    let _ = write!(
        html,
        "<div class=\"scroll\"><table><caption>{}</caption><thead><tr><th scope=\"col\">what</th><th scope=\"col\">from, s</th><th scope=\"col\">to, s</th><th scope=\"col\">in words</th></tr></thead><tbody>",
        text(&lane.title)
    );
    for span in spans {
        let to = if span.to_ms > span.from_ms { seconds(span.to_ms) } else { String::new() };
        let _ = write!(
            html,
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{to}</td><td class=\"words\">{}</td></tr>",
            text(&span.row),
            seconds(span.from_ms),
            text(&span.label),
        );
    }
    html.push_str("</tbody></table></div>");
}

/// Milliseconds as seconds with no more digits than needed.
pub fn seconds(millis: u64) -> String {
    let (whole, rest) = (millis / 1000, millis % 1000);
    match rest {
        0 => whole.to_string(),
        rest if rest % 100 == 0 => format!("{whole}.{}", rest / 100),
        rest => format!("{whole}.{rest:03}"),
    }
}
