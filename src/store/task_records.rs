//! What Redis keeps of tasks: a record for each, with its version in front and an expiry. A record is replaced
//! only by who knows its version, so that two processes cannot both decide how a task ends.

use std::time::Duration;

use redis::cmd;

use super::process_messages::{ProcessMessages, Unreachable};

/// Bytes of a version, as text.
const VERSION: usize = 16;
const SAVE: &str = "local there = redis.call('GETRANGE', KEYS[1], 0, 15)
if there ~= '' and there ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1";

/// 64 random bits, new for each record that is written.
pub type RecordVersion = u64;

/// A record to write, as text.
pub struct NewRecord<'a> {
    /// The version that is there; a record that is not there is always written.
    pub expected: Option<RecordVersion>,
    pub version: RecordVersion,
    pub text: &'a str,
    pub time: Duration,
}

fn key(shared: &ProcessMessages, task: &str) -> String {
    shared.key("task", task)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Writes a record; false if another version is there.
///
/// # Errors
///
/// Redis does not answer.
pub async fn save(shared: &ProcessMessages, task: &str, record: NewRecord<'_>) -> Result<bool, Unreachable> {
    let expected = record.expected.map(|version| format!("{version:016x}")).unwrap_or_default();
    let value = format!("{:016x}{}", record.version, record.text);
    let mut eval = cmd("EVAL");
    eval.arg(SAVE).arg(1).arg(key(shared, task)).arg(expected).arg(value).arg(millis(record.time));
    shared.run::<i64>(eval).await.map(|written| written == 1)
}

/// The record with its version.
///
/// # Errors
///
/// Redis does not answer.
pub async fn load(
    shared: &ProcessMessages,
    task: &str,
) -> Result<Option<(RecordVersion, String)>, Unreachable> {
    let mut get = cmd("GET");
    get.arg(key(shared, task));
    let record = shared.run::<Option<String>>(get).await?;
    Ok(record.and_then(|record| {
        let (version, text) = record.split_at_checked(VERSION)?;
        Some((RecordVersion::from_str_radix(version, 16).ok()?, text.to_owned()))
    }))
}

/// The version of a record.
///
/// # Errors
///
/// Redis does not answer.
pub async fn version(shared: &ProcessMessages, task: &str) -> Result<Option<RecordVersion>, Unreachable> {
    let mut get = cmd("GETRANGE");
    get.arg(key(shared, task)).arg(0).arg(VERSION - 1);
    let version = shared.run::<String>(get).await?;
    Ok(RecordVersion::from_str_radix(&version, 16).ok())
}

/// Keeps a record for this long from now on.
///
/// # Errors
///
/// Redis does not answer.
pub async fn renew(shared: &ProcessMessages, task: &str, time: Duration) -> Result<(), Unreachable> {
    let mut expire = cmd("PEXPIRE");
    expire.arg(key(shared, task)).arg(millis(time));
    shared.run::<i64>(expire).await.map(drop)
}
