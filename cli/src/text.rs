//! Values of the API as text for people.

use serde_json::Value;

/// Text of an absent value.
const ABSENT: &str = "-";

/// Returns a text in which control characters are escaped: what a customer reports must not control the terminal of
/// an operator.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            printable.extend(char.escape_default());
        } else {
            printable.push(char);
        }
    }
    printable
}

/// Returns a value as the text of a cell. An amount is the API's own text for it, which is exact.
pub(crate) fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => ABSENT.to_owned(),
        Some(Value::Bool(true)) => "yes".to_owned(),
        Some(Value::Bool(false)) => "no".to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::String(text)) if text.is_empty() => ABSENT.to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(items)) if items.is_empty() => ABSENT.to_owned(),
        Some(Value::Array(items)) => {
            let cells: Vec<String> = items.iter().map(|item| cell(Some(item))).collect();
            cells.join(", ")
        }
        Some(object @ Value::Object(members)) => match members.get("display") {
            Some(display) => cell(Some(display)),
            None if members.is_empty() => ABSENT.to_owned(),
            None => printable(&object.to_string()),
        },
    }
}

/// Removes white space between the tokens of a JSON text, so that it is one line. Numbers and the order of members
/// stay as they are.
pub(crate) fn compact(json: &str) -> String {
    let mut line = String::with_capacity(json.len());
    let (mut in_string, mut is_escaped) = (false, false);
    for char in json.chars() {
        if in_string {
            in_string = is_escaped || char != '"';
            is_escaped = char == '\\' && !is_escaped;
        } else if char.is_ascii_whitespace() {
            continue;
        } else {
            in_string = char == '"';
        }
        line.push(char);
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_json_text_becomes_one_line_and_stays_the_same() {
        let text = "{ \"b\" : [ 1.50,\n 2 ],\t\"a\": \" \\\" \\\\\" }\n";
        assert_eq!(compact(text), r#"{"b":[1.50,2],"a":" \" \\"}"#);
    }

    #[test]
    fn a_cell_is_one_line_for_people() {
        let check = |value: Value, expected: &str| assert_eq!(cell(Some(&value)), expected);
        check(json!(null), "-");
        check(json!(true), "yes");
        check(json!("\u{1b}[2Jx\n"), "\\u{1b}[2Jx\\n");
        check(json!(["a", "b"]), "a, b");
        check(json!({ "micro_usd": 70_000, "display": "$0.07" }), "$0.07");
        check(json!({ "a": "\n" }), r#"{"a":"\n"}"#);
        assert_eq!(cell(None), "-");
    }
}
