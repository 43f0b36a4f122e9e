//! PDF files of one page of text (ISO 32000-1, 7.5).

use std::fmt::Write as _;

/// Creates a file with these lines. Characters other than printable ASCII become `?`.
pub(crate) fn of_lines(lines: &[&str]) -> String {
    let mut text = "BT /F 12 Tf 72 770 Td 18 TL".to_owned();
    for line in lines {
        text.push_str(" (");
        for character in line.chars() {
            match character {
                '(' | ')' | '\\' => text.extend(['\\', character]),
                ' '..='~' => text.push(character),
                _ => text.push('?'),
            }
        }
        text.push_str(") '");
    }
    text.push_str(" ET");
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R \
         /Resources << /Font << /F 5 0 R >> >> >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{text}\nendstream", text.len()),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    let mut file = "%PDF-1.4\n".to_owned();
    let mut offsets = String::new();
    for (index, object) in objects.iter().enumerate() {
        let _ = writeln!(offsets, "{:010} 00000 n ", file.len());
        let _ = write!(file, "{} 0 obj\n{object}\nendobj\n", index + 1);
    }
    let (table, count) = (file.len(), objects.len() + 1);
    let _ = write!(
        file,
        "xref\n0 {count}\n0000000000 65535 f \n{offsets}trailer\n<< /Size {count} /Root 1 0 R >>\n\
         startxref\n{table}\n%%EOF\n"
    );
    file
}
