//! The queue, in the place of SQS. Messages are on disk before they are acknowledged.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, params};
use tollgate_runtime::Clock;

/// Deliveries of a message before it becomes a dead letter: the template's `maxReceiveCount`.
pub const MAX_RECEIVES: u32 = 5;

/// A received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Identifier of the message.
    pub id: i64,
    /// Body as sent.
    pub body: String,
    /// Number of deliveries, this one included.
    pub receives: u32,
}

/// A message that reached its maximum number of deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Identifier of the message.
    pub id: i64,
    /// Body as sent.
    pub body: String,
}

/// Numbers of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that are visible, delayed or in flight.
    pub queued: u64,
    /// Dead letters.
    pub dead: u64,
}

/// A queue with a dead-letter queue behind it.
pub struct Queue {
    state: Mutex<State>,
    /// Clock of delays.
    clock: Clock,
}

struct State {
    db: Connection,
    /// Messages in flight, which are not delivered to anyone else. Not kept on disk: they are visible
    /// again when the process has restarted.
    in_flight: HashSet<i64>,
}

impl Queue {
    pub(crate) fn in_memory(clock: Clock) -> rusqlite::Result<Self> {
        Self::new(Connection::open_in_memory()?, clock)
    }

    pub(crate) fn open(path: &Path, clock: Clock) -> rusqlite::Result<Self> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        Self::new(db, clock)
    }

    fn new(db: Connection, clock: Clock) -> rusqlite::Result<Self> {
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS messages (
                 id INTEGER PRIMARY KEY AUTOINCREMENT,
                 body TEXT NOT NULL,
                 receives INTEGER NOT NULL DEFAULT 0,
                 dead INTEGER NOT NULL DEFAULT 0
             );
             CREATE INDEX IF NOT EXISTS by_state ON messages (dead, id);",
        )?;
        // Files of earlier releases have no delays.
        let has_delays = db
            .prepare("SELECT 1 FROM pragma_table_info('messages') WHERE name = 'visible_at'")?
            .exists([])?;
        if !has_delays {
            db.execute_batch(
                "ALTER TABLE messages ADD COLUMN visible_at INTEGER NOT NULL DEFAULT 0",
            )?;
        }
        let state = Mutex::new(State {
            db,
            in_flight: HashSet::new(),
        });
        Ok(Self { state, clock })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the messages, all or none.
    ///
    /// # Errors
    /// When the database fails.
    pub fn send(&self, bodies: &[String]) -> rusqlite::Result<()> {
        let bodies = bodies.iter().map(|body| (body.as_str(), 0));
        self.send_after(&bodies.collect::<Vec<_>>())
    }

    /// Sends the messages, all or none, each to be received after a number of seconds.
    ///
    /// # Errors
    /// When the database fails.
    pub fn send_after(&self, messages: &[(&str, i64)]) -> rusqlite::Result<()> {
        let now = self.clock.now();
        let mut state = self.state();
        let transaction = state.db.transaction()?;
        for (body, delay_s) in messages {
            let delay = SignedDuration::from_secs(*delay_s);
            let visible_at = match *delay_s {
                0 => Timestamp::UNIX_EPOCH,
                _ => now.saturating_add(delay).unwrap_or(Timestamp::MAX),
            };
            transaction.execute(
                "INSERT INTO messages (body, visible_at) VALUES (?1, ?2)",
                params![body, visible_at.as_millisecond()],
            )?;
        }
        transaction.commit()
    }

    /// Receives up to `max` messages whose delay is over, oldest first. The receiver deletes them or makes them visible again.
    ///
    /// # Errors
    /// When the database fails.
    pub fn receive(&self, max: usize) -> rusqlite::Result<Vec<Message>> {
        let now = self.clock.now().as_millisecond();
        let mut state = self.state();
        let State { db, in_flight } = &mut *state;
        let mut messages = Vec::new();
        {
            let mut query = db.prepare_cached(
                "SELECT id, body, receives FROM messages WHERE dead = 0 AND visible_at <= ?1 ORDER BY id",
            )?;
            let mut rows = query.query([now])?;
            while messages.len() < max {
                let Some(row) = rows.next()? else { break };
                let message = Message {
                    id: row.get(0)?,
                    body: row.get(1)?,
                    receives: row.get::<_, u32>(2)? + 1,
                };
                if !in_flight.contains(&message.id) {
                    messages.push(message);
                }
            }
        }
        let transaction = db.transaction()?;
        for message in &messages {
            transaction.execute(
                "UPDATE messages SET receives = ?2 WHERE id = ?1",
                params![message.id, message.receives],
            )?;
            in_flight.insert(message.id);
        }
        transaction.commit()?;
        Ok(messages)
    }

    /// Deletes messages that were processed.
    ///
    /// # Errors
    /// When the database fails.
    pub fn delete(&self, ids: &[i64]) -> rusqlite::Result<()> {
        let mut state = self.state();
        let State { db, in_flight } = &mut *state;
        let transaction = db.transaction()?;
        for id in ids {
            transaction.execute("DELETE FROM messages WHERE id = ?1", [id])?;
            in_flight.remove(id);
        }
        transaction.commit()
    }

    /// Makes messages visible again, to be redelivered. Messages that were delivered [`MAX_RECEIVES`] times
    /// become dead letters; returns their number.
    ///
    /// # Errors
    /// When the database fails.
    pub fn make_visible(&self, ids: &[i64]) -> rusqlite::Result<usize> {
        let mut state = self.state();
        let State { db, in_flight } = &mut *state;
        let mut dead = 0;
        for id in ids {
            dead += db.execute(
                "UPDATE messages SET dead = 1 WHERE id = ?1 AND receives >= ?2",
                params![id, MAX_RECEIVES],
            )?;
            in_flight.remove(id);
        }
        Ok(dead)
    }

    /// Returns the numbers of messages.
    ///
    /// # Errors
    /// When the database fails.
    pub fn counts(&self) -> rusqlite::Result<Counts> {
        self.state().db.query_row(
            "SELECT COUNT(*) FILTER (WHERE dead = 0), COUNT(*) FILTER (WHERE dead = 1) FROM messages",
            [],
            |row| {
                Ok(Counts {
                    queued: row.get(0)?,
                    dead: row.get(1)?,
                })
            },
        )
    }

    /// Returns the oldest `max` dead letters.
    ///
    /// # Errors
    /// When the database fails.
    pub fn dead_letters(&self, max: u32) -> rusqlite::Result<Vec<DeadLetter>> {
        let state = self.state();
        let mut query = state
            .db
            .prepare_cached("SELECT id, body FROM messages WHERE dead = 1 ORDER BY id LIMIT ?1")?;
        let letters = query.query_map([max], |row| {
            Ok(DeadLetter {
                id: row.get(0)?,
                body: row.get(1)?,
            })
        })?;
        letters.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_redelivered_until_it_is_deleted_or_a_dead_letter() {
        let queue = Queue::in_memory(Clock::system()).unwrap();
        queue.send(&["a".into(), "b".into()]).unwrap();
        let first = queue.receive(10).unwrap();
        assert_eq!(first.len(), 2);
        assert!(queue.receive(10).unwrap().is_empty(), "in flight");
        queue.delete(&[first[0].id]).unwrap();
        let bad = first[1].id;
        for receives in 2..=MAX_RECEIVES {
            assert_eq!(queue.make_visible(&[bad]).unwrap(), 0);
            let again = queue.receive(10).unwrap();
            assert_eq!((again.len(), again[0].receives), (1, receives));
        }
        assert_eq!(queue.make_visible(&[bad]).unwrap(), 1);
        assert!(queue.receive(10).unwrap().is_empty());
        assert_eq!(queue.counts().unwrap(), Counts { queued: 0, dead: 1 });
        assert_eq!(queue.dead_letters(10).unwrap()[0].body, "b");
    }

    #[test]
    fn a_delayed_message_is_received_after_its_delay() {
        let time = tollgate_runtime::clock::ManualClock::at(Timestamp::UNIX_EPOCH);
        let queue = Queue::in_memory(time.clock()).unwrap();
        queue.send_after(&[("later", 5), ("now", 0)]).unwrap();
        let received = || {
            let messages = queue.receive(10).unwrap();
            messages.into_iter().map(|it| it.body).collect::<Vec<_>>()
        };
        assert_eq!(received(), ["now"]);
        time.advance(SignedDuration::from_secs(4));
        assert_eq!(received(), [""; 0]);
        assert_eq!(queue.counts().unwrap(), Counts { queued: 2, dead: 0 });
        time.advance(SignedDuration::from_secs(1));
        assert_eq!(received(), ["later"]);
    }
}
