//! Standard output: tables for people, or the API's JSON for programs.

use std::io::{BufWriter, Stdout, Write};

use serde_json::Value;

use crate::failure::Failure;
use crate::text::{cell, compact};

/// Column of a table: the title, and the JSON pointer of the value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    pointer: &'static str,
    is_number: bool,
}

/// Creates a column of texts.
pub(crate) const fn text(title: &'static str, pointer: &'static str) -> Column {
    let is_number = false;
    Column {
        title,
        pointer,
        is_number,
    }
}

/// Creates a column of numbers or amounts.
pub(crate) const fn number(title: &'static str, pointer: &'static str) -> Column {
    let is_number = true;
    Column {
        title,
        pointer,
        is_number,
    }
}

/// Standard output of a command.
pub(crate) struct Output {
    pub(crate) is_json: bool,
    to: BufWriter<Stdout>,
}

impl Output {
    pub(crate) fn new(is_json: bool) -> Self {
        let to = BufWriter::new(std::io::stdout());
        Self { is_json, to }
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.to, "{line}").map_err(|error| Failure::output(&error))
    }

    /// Makes everything printed visible.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(|error| Failure::output(&error))
    }

    /// Prints a document of the API.
    pub(crate) fn document(&mut self, body: &str) -> Result<(), Failure> {
        if self.is_json {
            return self.line(&compact(body));
        }
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        self.details(&value)
    }

    /// Prints the members of an object, each on a line, and lists of objects as tables after them.
    pub(crate) fn details(&mut self, value: &Value) -> Result<(), Failure> {
        let (mut members, mut lists) = (Vec::new(), Vec::new());
        flatten("", value, &mut members, &mut lists);
        let width = members.iter().map(|(name, _)| name.chars().count()).max();
        for (name, text) in &members {
            self.line(&format!("{name:<0$}  {text}", width.unwrap_or(0)))?;
        }
        for (name, rows) in lists {
            self.line(&format!("\n{name}:"))?;
            self.any_table(rows)?;
        }
        Ok(())
    }

    /// Prints objects as a table of all their members.
    fn any_table(&mut self, rows: &[Value]) -> Result<(), Failure> {
        let mut titles: Vec<String> = Vec::new();
        let mut cells = Vec::new();
        for row in rows {
            let (mut members, mut lists) = (Vec::new(), Vec::new());
            flatten("", row, &mut members, &mut lists);
            members.extend(lists.into_iter().map(|(name, rows)| {
                let rows: Vec<String> = rows.iter().map(|row| cell(Some(row))).collect();
                (name, rows.join(" "))
            }));
            for (name, _) in &members {
                if !titles.contains(name) {
                    titles.push(name.clone());
                }
            }
            cells.push(members);
        }
        let rows = cells.iter().map(|members| {
            let cell = |title: &String| {
                let member = members.iter().find(|(name, _)| name == title);
                member.map_or_else(|| cell(None), |(_, text)| text.clone())
            };
            titles.iter().map(cell).collect()
        });
        let header = titles.iter().map(|title| title.to_uppercase()).collect();
        let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
        let mut widths = vec![0; titles.len()];
        widen(&mut widths, &lines);
        let columns = vec![false; titles.len()];
        for line in &lines {
            self.row(line, &widths, &columns)?;
        }
        Ok(())
    }

    fn row(
        &mut self,
        cells: &[String],
        widths: &[usize],
        is_number: &[bool],
    ) -> Result<(), Failure> {
        let mut line = String::new();
        for ((cell, width), is_number) in cells.iter().zip(widths).zip(is_number) {
            let blanks = " ".repeat(width.saturating_sub(cell.chars().count()));
            let (before, after) = if *is_number {
                (blanks.as_str(), "")
            } else {
                ("", blanks.as_str())
            };
            for part in [before, cell, after, "  "] {
                line.push_str(part);
            }
        }
        self.line(line.trim_end())
    }
}

/// Table that is printed as its pages arrive. The first page decides the widths of the columns.
pub(crate) struct Table<'a> {
    columns: &'a [Column],
    widths: Vec<usize>,
}

impl<'a> Table<'a> {
    pub(crate) fn new(columns: &'a [Column]) -> Self {
        let widths = Vec::new();
        Self { columns, widths }
    }

    /// Prints rows, before the first ones the titles.
    pub(crate) fn rows(&mut self, output: &mut Output, rows: &[Value]) -> Result<(), Failure> {
        let mut lines: Vec<Vec<String>> = Vec::new();
        if self.widths.is_empty() && !rows.is_empty() {
            lines.push(
                self.columns
                    .iter()
                    .map(|column| column.title.to_owned())
                    .collect(),
            );
        }
        for row in rows {
            let cell = |column: &Column| cell(row.pointer(column.pointer));
            lines.push(self.columns.iter().map(cell).collect());
        }
        if self.widths.is_empty() && !rows.is_empty() {
            self.widths.resize(self.columns.len(), 0);
            widen(&mut self.widths, &lines);
        }
        let is_number: Vec<bool> = self.columns.iter().map(|column| column.is_number).collect();
        for line in &lines {
            output.row(line, &self.widths, &is_number)?;
        }
        Ok(())
    }
}

fn widen(widths: &mut [usize], lines: &[Vec<String>]) {
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
}

/// Lists the members of a value by their path, and the lists of objects apart.
fn flatten<'a>(
    path: &str,
    value: &'a Value,
    members: &mut Vec<(String, String)>,
    lists: &mut Vec<(String, &'a [Value])>,
) {
    match value {
        Value::Object(object) if !object.contains_key("display") && !object.is_empty() => {
            let mut object: Vec<_> = object.iter().collect();
            object.sort_by_key(|(name, _)| !["id", "name"].contains(&name.as_str()));
            for (name, value) in object {
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                flatten(&path, value, members, lists);
            }
        }
        Value::Array(rows) if rows.iter().any(Value::is_object) => {
            lists.push((path.to_owned(), rows));
        }
        value => members.push((path.to_owned(), cell(Some(value)))),
    }
}
