//! `tollgate replay`.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::command::read_input;
use crate::context::Context;
use crate::failure::Failure;
use crate::report::{Reported, report};

/// Message of the log lines with usage events that the bus did not accept.
const UNSENT: &str = "unsent_usage";

#[derive(Args)]
#[command(after_help = "Example:
  aws logs filter-log-events --log-group-name /aws/lambda/tollgate-Ping --output json \\
    --filter-pattern '{ $.message = \"unsent_usage\" }' | tollgate replay -")]
pub(crate) struct Replay {
    /// File with the output of `aws logs filter-log-events` or `aws logs tail`, or with log lines; `-` is standard input.
    file: PathBuf,
}

/// Output of `aws logs filter-log-events`.
#[derive(Deserialize)]
struct Filtered {
    events: Vec<Logged>,
}

#[derive(Deserialize)]
struct Logged {
    message: String,
}

/// Log line.
#[derive(Deserialize)]
struct Line {
    message: String,
    event: Option<Box<RawValue>>,
}

impl Replay {
    pub(crate) async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let found = unsent(&read_input(&self.file)?)?;
        if found.is_empty() {
            crate::note("there is no unsent usage in it");
            return Ok(());
        }
        report(context, &found).await
    }
}

/// Finds the unsent usage events in one or several outputs of `aws logs`, or in log lines.
fn unsent(text: &str) -> Result<Vec<Reported>, Failure> {
    let outputs = serde_json::Deserializer::from_str(text).into_iter::<Filtered>();
    let outputs: Result<Vec<Filtered>, _> = outputs.collect();
    let mut found = Vec::new();
    match outputs {
        Ok(outputs) => {
            let logged = outputs.iter().flat_map(|output| &output.events);
            for (at, Logged { message }) in logged.enumerate() {
                add(&mut found, format!("log event {}", at + 1), message)?;
            }
        }
        Err(_) => {
            for (at, line) in text.lines().enumerate() {
                add(&mut found, format!("line {}", at + 1), line)?;
            }
        }
    }
    Ok(found)
}

/// Adds the usage event of a log line, if it has one. `aws logs tail` prints time and stream before the line.
fn add(found: &mut Vec<Reported>, origin: String, line: &str) -> Result<(), Failure> {
    let json = line.find('{').map_or("", |start| line[start..].trim_end());
    match serde_json::from_str(json) {
        Ok(Line {
            message,
            event: Some(event),
        }) if message == UNSENT => {
            found.push(Reported { origin, event });
            Ok(())
        }
        Err(_) if line.contains(UNSENT) => Err(Failure::of(format!(
            "{origin} has unsent usage and cannot be read, because a part of it is missing; nothing was sent"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsent_usage_is_found_in_each_form_of_the_log() {
        let line = |id: u8| {
            format!(r#"{{"level":"ERROR","message":"unsent_usage","event":{{"id":{id}}}}}"#)
        };
        let check = |text: &str, expected: &[&str]| {
            let found = unsent(text).unwrap();
            let found: Vec<&str> = found.iter().map(|found| found.event.get()).collect();
            assert_eq!(found, expected, "{text}");
        };
        let output = |messages: &[String]| {
            let events: Vec<_> = messages
                .iter()
                .map(|message| serde_json::json!({ "message": message }))
                .collect();
            serde_json::json!({ "events": events, "searchedLogStreams": [] }).to_string()
        };
        let other = r#"{"level":"INFO","message":"started"}"#.to_owned();
        let both = [r#"{"id":1}"#, r#"{"id":2}"#];
        check(&output(&[line(1), other.clone(), line(2) + "\n"]), &both);
        check(&(output(&[line(1)]) + "\n" + &output(&[line(2)])), &both);
        check(
            &format!("{}\n{other}\nREPORT RequestId\n{}\n", line(1), line(2)),
            &both,
        );
        let tail = "2026-11-22T10:00:00.1Z 2026/11/22/tollgate-Ping[1]ab";
        check(&format!("{tail} {}\n{tail} {}\n", line(1), line(2)), &both);
        check("", &[]);
        assert!(unsent(&line(1)[..50]).is_err());
    }
}
