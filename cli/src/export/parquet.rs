//! Exports as Parquet: files of many rows each, because a file of Parquet can be read only once it is complete.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use crate::export::row::Row;

/// Rows after which a file is complete, at the end of a page of the API.
pub(crate) const ROWS: usize = 50_000;

const SCHEMA: &str = "message usage_record {
    required binary customer_id (STRING);
    required int64 time (TIMESTAMP(MICROS,true));
    required binary source (STRING);
    required binary event_id (STRING);
    required int32 record;
    required binary request_id (STRING);
    required binary key_id (STRING);
    required binary plan (STRING);
    required binary method (STRING);
    required binary endpoint (STRING);
    required int32 status;
    required int64 latency_ms;
    optional int64 request_bytes;
    optional int64 response_bytes;
    optional binary truncated (STRING);
    required boolean billable;
    required int64 cost_micro_usd;
    required binary costs (STRING);
}";

/// Returns the path of a file of an export.
fn part(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("part-{number:05}.parquet"))
}

/// Writes a file of rows, completely or not at all. A file of the same number is replaced.
pub(crate) fn write(dir: &Path, number: u64, rows: &[Row]) -> io::Result<()> {
    let path = part(dir, number);
    let new = path.with_extension("new");
    let file = File::create(&new)?;
    encode(&file, rows).map_err(io::Error::other)?;
    file.sync_all()?;
    fs::rename(new, path)?;
    File::open(dir)?.sync_all()
}

/// Removes files that an earlier run began, or completed without recording it.
pub(crate) fn remove_from(dir: &Path, number: u64) -> io::Result<()> {
    let path = part(dir, number);
    for path in [path.with_extension("new"), path] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn encode(file: &File, rows: &[Row]) -> Result<()> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY);
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties.build()))?;
    columns(writer.next_row_group()?, rows)?;
    writer.close()?;
    Ok(())
}

/// Writes all columns of a row group.
fn columns(group: SerializedRowGroupWriter<'_, &File>, rows: &[Row]) -> Result<()> {
    let mut columns = Columns { group, rows };
    columns.text(|row| &row.customer)?;
    columns.required::<Int64Type>(|row| row.time.as_microsecond())?;
    columns.text(|row| &row.source)?;
    columns.text(|row| &row.event)?;
    columns.required::<Int32Type>(|row| row.record)?;
    columns.text(|row| &row.request)?;
    columns.text(|row| &row.key)?;
    columns.text(|row| &row.plan)?;
    columns.text(|row| &row.method)?;
    columns.text(|row| &row.endpoint)?;
    columns.required::<Int32Type>(|row| row.status)?;
    columns.required::<Int64Type>(|row| row.latency_ms)?;
    columns.optional::<Int64Type>(|row| row.request_bytes)?;
    columns.optional::<Int64Type>(|row| row.response_bytes)?;
    columns.optional::<ByteArrayType>(|row| row.truncated.map(ByteArray::from))?;
    columns.required::<BoolType>(|row| row.billable)?;
    columns.required::<Int64Type>(|row| row.cost_micro_usd)?;
    columns.text(|row| &row.costs)?;
    columns.group.close()?;
    Ok(())
}

/// Columns of a row group, in the order of the schema.
struct Columns<'a, 'f, 'r> {
    group: SerializedRowGroupWriter<'a, &'f File>,
    rows: &'r [Row],
}

impl Columns<'_, '_, '_> {
    fn text(&mut self, of: impl Fn(&Row) -> &String) -> Result<()> {
        self.required::<ByteArrayType>(|row| ByteArray::from(of(row).as_str()))
    }

    fn required<T: DataType>(&mut self, of: impl Fn(&Row) -> T::T) -> Result<()> {
        let values: Vec<T::T> = self.rows.iter().map(of).collect();
        self.write::<T>(&values, None)
    }

    fn optional<T: DataType>(&mut self, of: impl Fn(&Row) -> Option<T::T>) -> Result<()> {
        let cells: Vec<Option<T::T>> = self.rows.iter().map(of).collect();
        let levels: Vec<i16> = cells.iter().map(|cell| i16::from(cell.is_some())).collect();
        let values: Vec<T::T> = cells.into_iter().flatten().collect();
        self.write::<T>(&values, Some(&levels))
    }

    fn write<T: DataType>(&mut self, values: &[T::T], levels: Option<&[i16]>) -> Result<()> {
        let column = self.group.next_column()?;
        let mut column = column
            .ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
        column.typed::<T>().write_batch(values, levels, None)?;
        column.close()
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};

    use super::*;

    fn row(record: i32) -> Row {
        Row {
            customer: "acme".to_owned(),
            time: "2026-11-22T10:00:00.123456Z".parse().unwrap(),
            source: "shop".to_owned(),
            event: "e-1".to_owned(),
            record,
            request: format!("r-{record}"),
            key: "shop".to_owned(),
            plan: "pro".to_owned(),
            method: "GET".to_owned(),
            endpoint: "/things/{id}".to_owned(),
            status: 200,
            latency_ms: 5,
            request_bytes: (record == 1).then_some(7),
            response_bytes: None,
            truncated: (record == 0).then_some("dropped"),
            billable: record == 1,
            cost_micro_usd: 9,
            costs: "[]".to_owned(),
        }
    }

    #[test]
    fn a_file_has_the_rows() {
        let dir = std::env::temp_dir().join(format!("tollgate-parquet-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        write(&dir, 3, &[row(0), row(1)]).unwrap();
        let path = dir.join("part-00003.parquet");
        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let rows: Vec<String> = reader
            .get_row_iter(None)
            .unwrap()
            .map(|row| row.unwrap().to_string())
            .collect();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            rows[0],
            "{customer_id: \"acme\", time: 2026-11-22 10:00:00.123456 +00:00, source: \"shop\", event_id: \"e-1\", \
             record: 0, request_id: \"r-0\", key_id: \"shop\", plan: \"pro\", method: \"GET\", \
             endpoint: \"/things/{id}\", status: 200, latency_ms: 5, request_bytes: null, response_bytes: null, \
             truncated: \"dropped\", billable: false, cost_micro_usd: 9, costs: \"[]\"}"
        );
        assert!(
            rows[1].contains("request_bytes: 7") && rows[1].contains("truncated: null"),
            "{}",
            rows[1]
        );
        assert_eq!(rows.len(), 2);
    }
}
