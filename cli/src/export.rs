//! `tollgate export`: usage records into files, resumably.
//!
//! An export writes to `<output>.part`, and keeps in `<output>.state` how far it is: which page of the API comes next,
//! and how much of the file is complete. The file is made durable before the state, so that it has at least what the
//! state says; what it has beyond is removed when the export continues. So no record is missing or there twice,
//! wherever the program was killed.

mod csv;
mod parquet;
mod row;

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tollgate_domain::window::{Day, Month};

use crate::client::path;
use crate::context::{Context, Page, with_cursor};
use crate::export::csv::CsvFile;
use crate::export::row::Row;
use crate::failure::{Exit, Failure};
use crate::logged::{LoggedEvent, Records, name};
use crate::progress::Progress;

/// Bytes of CSV after which the state is written.
const CHECKPOINT_BYTES: u64 = 4 << 20;
/// Time after which the state is written.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct Export {
    /// Output: a file for CSV, a directory of files for Parquet.
    output: PathBuf,
    /// Format.
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Only records of this customer; by default, of all customers.
    #[arg(long, value_name = "ID")]
    customer: Option<String>,
    /// UTC month, such as 2026-11.
    #[arg(long, value_name = "MONTH", required_unless_present_all = ["from", "to"], conflicts_with_all = ["from", "to"])]
    month: Option<Month>,
    /// First UTC day, such as 2026-11-22.
    #[arg(long, value_name = "DAY", requires = "to")]
    from: Option<Day>,
    /// Last UTC day.
    #[arg(long, value_name = "DAY", requires = "from")]
    to: Option<Day>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Csv,
    Parquet,
}

/// Contents of an export, by which another one does not continue it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Request {
    url: String,
    format: Format,
    customer: Option<String>,
    from: Day,
    to: Day,
}

/// Page of the API that comes next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// Cursor of the page of customers.
    customers: Option<String>,
    /// Customer. Those before it are complete.
    customer: Option<String>,
    /// Cursor of the page of the customer's usage events; none if the customer is complete, too.
    events: Option<String>,
}

/// State of an export.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    request: Request,
    position: Position,
    /// Complete bytes of CSV, or complete files of Parquet.
    written: u64,
    /// Records in them.
    records: u64,
    /// Counted records of which the API does not say which they are.
    left_out: u64,
    is_complete: bool,
}

/// Files of an export.
struct Files {
    output: PathBuf,
    part: PathBuf,
    state: PathBuf,
}

impl Files {
    fn of(output: &Path) -> Self {
        let with = |suffix: &str| {
            let mut name = OsString::from(output);
            name.push(suffix);
            PathBuf::from(name)
        };
        Self {
            output: output.to_owned(),
            part: with(".part"),
            state: with(".state"),
        }
    }

    fn read_state(&self) -> Result<Option<State>, Failure> {
        let text = match fs::read(&self.state) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot("read", &self.state, &error)),
        };
        let state = serde_json::from_slice(&text);
        state
            .map(Some)
            .map_err(|error| cannot("read", &self.state, &error))
    }

    /// Replaces the state, durably.
    fn write_state(&self, state: &State) -> Result<(), Failure> {
        let new = self.state.with_extension("state-new");
        let text =
            serde_json::to_vec(state).map_err(|error| cannot("written", &self.state, &error))?;
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&text)?;
            file.sync_data()?;
            fs::rename(&new, &self.state)
        };
        write().map_err(|error| cannot("written", &self.state, &error))
    }

    /// Moves what is complete to the output.
    fn complete(&self) -> Result<(), Failure> {
        if self.part.exists() {
            fs::rename(&self.part, &self.output)
                .map_err(|error| cannot("written", &self.output, &error))?;
        }
        fs::remove_file(&self.state).map_err(|error| cannot("deleted", &self.state, &error))
    }
}

fn cannot(what: &str, path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::because(format!("{} cannot be {what}", path.display()), error)
}

/// Output of an export, in its format.
enum Sink {
    Csv(CsvFile),
    Parquet { dir: PathBuf, rows: Vec<Row> },
}

/// Export that runs.
struct Exporter<'a> {
    context: &'a Context,
    files: &'a Files,
    state: State,
    sink: Sink,
    progress: Progress,
    /// Records in the output, with those that the state does not have yet.
    records: u64,
    left_out: u64,
    checkpoint: Instant,
}

impl Export {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let (from, to) = match (self.month, self.from, self.to) {
            (Some(month), ..) => (month.first_day(), month.next().first_day().previous()),
            (None, Some(from), Some(to)) if from <= to => (from, to),
            _ => return Err(Failure::usage("--from must not be after --to")),
        };
        let request = Request {
            url: context.client.url().to_owned(),
            format: self.format,
            customer: self.customer,
            from,
            to,
        };
        let files = Files::of(&self.output);
        let state = match files.read_state()? {
            Some(state) if state.request != request => {
                return Err(Failure::usage(format!(
                    "{} is of another export, which is not complete: choose another output, or delete it and {}",
                    files.state.display(),
                    files.part.display()
                )));
            }
            Some(state) => state,
            None if files.output.exists() => {
                return Err(Failure::usage(format!(
                    "{} exists already",
                    files.output.display()
                )));
            }
            None => State {
                request,
                position: Position::default(),
                written: 0,
                records: 0,
                left_out: 0,
                is_complete: false,
            },
        };
        export(context, &files, state).await
    }
}

async fn export(context: &Context, files: &Files, state: State) -> Result<(), Failure> {
    let (records, left_out) = (state.records, state.left_out);
    if state.is_complete {
        files.complete()?;
        return finished(files, records, left_out);
    }
    let sink = Sink::open(files, &state)?;
    // Two programs would write to the same file.
    let lock = File::open(&files.part).map_err(|error| cannot("read", &files.part, &error))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Failure::new(
                Exit::Conflict,
                format!("another program is writing to {}", files.part.display()),
            ));
        }
        Err(TryLockError::Error(error)) => return Err(cannot("locked", &files.part, &error)),
    }
    if records > 0 {
        crate::note(format!("continuing after {records} records"));
    }
    let mut exporter = Exporter {
        context,
        files,
        state,
        sink,
        progress: Progress::new(),
        records,
        left_out,
        checkpoint: Instant::now(),
    };
    let outcome = exporter.run().await;
    let Exporter {
        records, left_out, ..
    } = exporter;
    if let Err(failure) = outcome {
        crate::note("the export is not complete; run the same command again to continue it");
        return Err(failure);
    }
    files.complete()?;
    finished(files, records, left_out)
}

fn finished(files: &Files, records: u64, left_out: u64) -> Result<(), Failure> {
    crate::note(format!(
        "exported {records} records to {}",
        files.output.display()
    ));
    match left_out {
        0 => Ok(()),
        left_out => Err(Failure::of(format!(
            "{left_out} counted records are missing from the export: others of their usage events were rejected, and the \
             API does not say which"
        ))),
    }
}

impl Sink {
    fn open(files: &Files, state: &State) -> Result<Self, Failure> {
        let opened = match state.request.format {
            Format::Csv => CsvFile::open(&files.part, state.written).map(Sink::Csv),
            Format::Parquet => fs::create_dir_all(&files.part)
                .and_then(|()| parquet::remove_from(&files.part, state.written))
                .map(|()| Sink::Parquet {
                    dir: files.part.clone(),
                    rows: Vec::new(),
                }),
        };
        opened.map_err(|error| cannot("written", &files.part, &error))
    }
}

impl Exporter<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        if let Some(customer) = self.state.request.customer.clone() {
            let Position {
                customer: begun,
                events,
                ..
            } = self.state.position.clone();
            if begun.is_none() || events.is_some() {
                self.customer(&customer, None, events).await?;
            }
        } else {
            self.customers().await?;
        }
        self.save(Position::default(), true)
    }

    /// Exports the records of all customers, in the order of their ids.
    async fn customers(&mut self) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Customer {
            id: String,
        }
        let Position {
            mut customers,
            customer: first,
            events,
        } = self.state.position.clone();
        let mut resumed = first.map(|first| (first, events));
        loop {
            let list = with_cursor(&path(&["admin", "customers"], &[]), customers.as_deref());
            let page: Page<Customer> = self.context.client.get(list).await?;
            for Customer { id } in page.data {
                let after = match &mut resumed {
                    Some((first, _)) if id < *first => continue,
                    Some((first, events)) if id == *first => match events.take() {
                        Some(events) => Some(events),
                        None => continue,
                    },
                    _ => None,
                };
                self.customer(&id, customers.clone(), after).await?;
            }
            customers = page.next_cursor;
            if customers.is_none() {
                return Ok(());
            }
        }
    }

    /// Exports the records of a customer after a cursor.
    async fn customer(
        &mut self,
        customer: &str,
        customers: Option<String>,
        after: Option<String>,
    ) -> Result<(), Failure> {
        let Request { from, to, .. } = self.state.request;
        let (from, to) = (from.to_string(), to.to_string());
        let query = [
            ("customer_id", Some(customer)),
            ("from", Some(from.as_str())),
            ("to", Some(to.as_str())),
        ];
        let events = path(&["admin", "usage", "events"], &query);
        let mut cursor = after;
        loop {
            let page = with_cursor(&events, cursor.as_deref());
            let page: Page<LoggedEvent> = self.context.client.get(page).await?;
            for logged in &page.data {
                self.event(logged)?;
            }
            cursor = page.next_cursor;
            let records = self.records;
            let day = page.data.last().map(|logged| logged.day);
            self.progress.report(|| {
                let day = day.map(|day| format!(", {day}")).unwrap_or_default();
                format!("{records} records, customer {customer}{day}")
            });
            let position = Position {
                customers: customers.clone(),
                customer: Some(customer.to_owned()),
                events: cursor.clone(),
            };
            self.save(position, false)?;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    fn event(&mut self, logged: &LoggedEvent) -> Result<(), Failure> {
        let (event, records) = logged.counted()?;
        let records = match records {
            Records::Certain(records) => records,
            Records::Uncertain => {
                let (day, name, counted) = (logged.day, name(&event), logged.records);
                self.progress.note(&format!(
                    "{day}: {counted} records of usage event {name} are left out"
                ));
                self.left_out += counted as u64;
                return Ok(());
            }
        };
        for (index, record) in records {
            let row = Row::new(&event, index, record)?;
            self.records += 1;
            match &mut self.sink {
                Sink::Csv(csv) => {
                    let appended = csv.append(&row);
                    appended.map_err(|error| cannot("written", &self.files.part, &error))?;
                }
                Sink::Parquet { rows, .. } => rows.push(row),
            }
        }
        Ok(())
    }

    /// Makes the rows durable and records the position after them: not after each page, which would take longer than
    /// the pages, except after the last one.
    fn save(&mut self, position: Position, is_last: bool) -> Result<(), Failure> {
        let part = &self.files.part;
        let written = match &mut self.sink {
            Sink::Csv(csv) => {
                let is_due = csv.len() - self.state.written >= CHECKPOINT_BYTES
                    || self.checkpoint.elapsed() >= CHECKPOINT_INTERVAL;
                if !is_last && !is_due {
                    return Ok(());
                }
                csv.sync()
                    .map_err(|error| cannot("written", part, &error))?
            }
            Sink::Parquet { dir, rows } => {
                if !is_last && rows.len() < parquet::ROWS {
                    return Ok(());
                }
                // An export without any record has a file, too, from which its columns can be read.
                if rows.is_empty() && self.state.written > 0 {
                    self.state.written
                } else {
                    let written = parquet::write(dir, self.state.written, rows);
                    written.map_err(|error| cannot("written", part, &error))?;
                    rows.clear();
                    self.state.written + 1
                }
            }
        };
        self.state.position = position;
        self.state.is_complete = is_last;
        self.state.written = written;
        self.state.records = self.records;
        self.state.left_out = self.left_out;
        self.checkpoint = Instant::now();
        self.files.write_state(&self.state)
    }
}
