//! Exports as CSV (RFC 4180).

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use crate::export::row::Row;

const HEADER: &str = "customer_id,time,source,event_id,record,request_id,key_id,plan,method,endpoint,status,latency_ms,\
    request_bytes,response_bytes,truncated,billable,cost_micro_usd,costs\n";

/// CSV file that grows.
pub(crate) struct CsvFile {
    to: BufWriter<File>,
    written: u64,
}

impl CsvFile {
    /// Opens the file at the end of the bytes that are known to be complete, and removes what is after them.
    pub(crate) fn open(path: &Path, written: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if file.metadata()?.len() < written {
            return Err(io::Error::other("it is shorter than it was"));
        }
        file.set_len(written)?;
        file.seek(SeekFrom::End(0))?;
        let to = BufWriter::new(file);
        let mut csv = Self { to, written };
        if written == 0 {
            csv.write(HEADER)?;
        }
        Ok(csv)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.to.write_all(text.as_bytes())?;
        self.written += text.len() as u64;
        Ok(())
    }

    /// Appends a row.
    pub(crate) fn append(&mut self, row: &Row) -> io::Result<()> {
        self.write(&line(row))
    }

    /// Makes all rows durable. Returns the length of the file.
    pub(crate) fn sync(&mut self) -> io::Result<u64> {
        self.to.flush()?;
        self.to.get_ref().sync_data()?;
        Ok(self.written)
    }

    /// Returns the length of the file, with what is still buffered.
    pub(crate) fn len(&self) -> u64 {
        self.written
    }
}

/// Returns the line of a row.
fn line(row: &Row) -> String {
    let number = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
    let cells = [
        cell(&row.customer),
        row.time.to_string(),
        cell(&row.source),
        cell(&row.event),
        row.record.to_string(),
        cell(&row.request),
        cell(&row.key),
        cell(&row.plan),
        cell(&row.method),
        cell(&row.endpoint),
        row.status.to_string(),
        row.latency_ms.to_string(),
        number(row.request_bytes),
        number(row.response_bytes),
        row.truncated.unwrap_or_default().to_owned(),
        row.billable.to_string(),
        row.cost_micro_usd.to_string(),
        cell(&row.costs),
    ];
    let mut line = cells.join(",");
    line.push('\n');
    line
}

/// Returns a text as a cell. A spreadsheet would run one that begins like a formula, so that it gets an apostrophe
/// before it ([OWASP](https://owasp.org/www-community/attacks/CSV_Injection)).
fn cell(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let needs_quotes = text.contains(['"', ',', '\r', '\n']);
    let mut cell = String::with_capacity(text.len() + 3);
    let quote = if needs_quotes { "\"" } else { "" };
    let apostrophe = if is_formula { "'" } else { "" };
    let _ = write!(
        cell,
        "{quote}{apostrophe}{}{quote}",
        text.replace('"', "\"\"")
    );
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_quoted_and_is_no_formula() {
        let check = |text: &str, expected: &str| assert_eq!(cell(text), expected);
        check("acme", "acme");
        check("=1+1", "'=1+1");
        check("+1", "'+1");
        check("-1", "'-1");
        check("@SUM(A1)", "'@SUM(A1)");
        check("a=1", "a=1");
        check("a,\"b\"", "\"a,\"\"b\"\"\"");
        check(
            "=HYPERLINK(\"x\",\"y\")",
            "\"'=HYPERLINK(\"\"x\"\",\"\"y\"\")\"",
        );
        check("", "");
    }
}
