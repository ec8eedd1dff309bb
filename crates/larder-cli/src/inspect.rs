//! `larder inspect`: what Redis has for a key.

use std::process::ExitCode;

use clap::Args;
use larder::codec::{Codec, Json, MessagePack};
use larder::inspect::{
    DamagedValue, EncodedPayload, Namespace, PendingWrite, StoredKey, StoredLease, StoredValue,
    UnusableReason,
};
use serde_json::{Value, json};

use crate::Outcome;
use crate::server::{Server, unknown};
use crate::text::{Screen, from_now, hex, is_hidden, millis};

/// Bytes of a shape, before the value.
const SHAPE: usize = 8;
/// Bytes of a value in a line.
const COLUMNS: usize = 8;

#[derive(Args)]
pub(crate) struct Inspect {
    /// The namespace of the cache, such as shop:price.
    namespace: String,
    /// The key as text, such as tea or eu:42.
    key: String,
    /// Shows the values, too: as JSON if their codec writes names, otherwise their bytes, and the texts in them.
    #[arg(long)]
    value: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(crate) async fn run(&self, server: &Server) -> Outcome {
        let namespace = Namespace::find(&server.l2()?, &self.namespace).await?;
        let key = namespace.key(&self.key).await?;
        // What is left of a cache that has lost its clock is shown.
        if !namespace.is_known() && has_nothing(&key) {
            return Err(unknown(&self.namespace));
        }
        let mut screen = Screen::default();
        if self.json {
            screen.json(&self.as_json(&key));
        } else {
            self.show(&key, &mut screen);
        }
        screen.print()?;
        Ok(ExitCode::SUCCESS)
    }

    fn show(&self, key: &StoredKey, screen: &mut Screen) {
        let (partition, clock) = (&key.partition, key.partition.clock);
        screen.line(format_args!("{} {}", self.namespace, self.key));
        screen.row(
            "partition",
            format_args!(
                "{} of {}",
                partition.partition.number, partition.partition.of
            ),
        );
        screen.row("node", &partition.node);
        if clock.epoch == 0 {
            screen.row("clock", "none");
            screen.sentence("Redis has lost it, so no instance uses what is left");
        } else {
            screen.row("epoch", clock.epoch);
            screen.row("version", clock.ver);
        }
        if let Some(kept) = key.kept {
            screen.row("kept", format_args!("{kept:?} more"));
        }
        if let Some(kind) = &key.other_type {
            screen.row("value", format_args!("none, but a {kind}"));
            screen.sentence("another program has put it there; delete it");
        } else if key.values.is_empty() {
            screen.row("value", "none");
        }
        for (number, value) in (1..).zip(&key.values) {
            screen.row("value", format_args!("{number} of {}", key.values.len()));
            match value {
                Ok(value) => self.show_value(key, value, screen),
                Err(damage) => {
                    screen.row("  used", "no:");
                    screen.sentence(&damage.to_string());
                }
            }
        }
        if key.leases.is_empty() {
            screen.row("lease", "none");
        }
        for lease in &key.leases {
            screen.row("lease", format_args!("for type {:016x}", lease.type_tag));
            screen.row("  began", format_args!("at version {}", lease.granted_at));
            screen.row("  ends", from_now(lease.ends_at, clock.now));
            screen.row("  awaited", if lease.is_awaited { "yes" } else { "no" });
        }
        match key.held {
            Some(held) => screen.row("hold", format_args!("{held:?} more")),
            None => screen.row("hold", "none"),
        }
        if let Some(mark) = &key.mark {
            let state = if mark.is_lost { "is lost" } else { "waits" };
            screen.row("mark", format_args!("write {} {state}", mark.entry));
        }
    }

    fn show_value(&self, key: &StoredKey, value: &StoredValue, screen: &mut Screen) {
        let now = key.partition.clock.now;
        let (stamp, lifetime) = (value.stamp, value.lifetime);
        screen.row("  type", format_args!("{:016x}", value.type_tag));
        // Out of the layer that compresses.
        let encoded = value.encoded();
        let (format, shape) = match &encoded {
            Some(encoded) => (encoded.format(), encoded.shape),
            None => (value.format(), None),
        };
        if encoded
            .as_ref()
            .is_some_and(|inner| inner.codec != value.codec)
        {
            screen.row("  codec", format_args!("{format}, {}", value.format()));
        } else {
            screen.row("  codec", format);
        }
        if let Some(shape) = shape {
            screen.row("  shape", format_args!("{shape:016x}"));
        }
        screen.row("  version", stamp.ver);
        screen.row("  written", from_now(stamp.written_at, now));
        if let Some(at) = lifetime.stale_at {
            screen.row("  stale", from_now(at, now));
        }
        screen.row("  expires", from_now(lifetime.expires_at, now));
        if let Some(at) = lifetime.ends_at.filter(|at| *at != lifetime.expires_at) {
            screen.row("  ends", from_now(at, now));
        }
        if let Some(ttl) = lifetime.l1_ttl {
            screen.row("  in L1", format_args!("for {ttl:?}"));
        }
        screen.row("  size", format_args!("{} bytes", value.size));
        screen.row("  payload", format_args!("{} bytes", value.payload.len()));
        for tag in &value.tags {
            match key.tags.get(tag).copied().flatten() {
                Some(last) => screen.row("  tag", format_args!("{tag}, version {}", last.ver)),
                None => screen.row("  tag", format_args!("{tag}, version lost")),
            }
        }
        let why_not = key.why_not(value);
        screen.row("  used", if why_not.is_empty() { "yes" } else { "no:" });
        for why in why_not {
            screen.sentence(&why.to_string());
        }
        if let Some(encoded) = encoded.filter(|_| self.value) {
            match decoded(&encoded) {
                Some(value) => screen.json(&value),
                None => {
                    // The shape is in a line of its own.
                    let before = if shape.is_some() { SHAPE } else { 0 };
                    let bytes = encoded.bytes.get(before..).unwrap_or_default();
                    for (bytes, texts) in bytes.chunks(COLUMNS).zip(texts(bytes).chunks(COLUMNS)) {
                        let hex = hex(bytes);
                        screen.line(format_args!("  {hex:16}  {}", texts.concat()));
                    }
                }
            }
        } else if self.value {
            screen.sentence(&format!("not shown: the value is {}", value.format()));
        }
    }

    fn as_json(&self, key: &StoredKey) -> Value {
        let (partition, clock) = (&key.partition, key.partition.clock);
        let values = key
            .values
            .iter()
            .map(|value| self.value_as_json(key, value));
        let lease = |lease: &StoredLease| {
            json!({
                "type": format!("{:016x}", lease.type_tag),
                "epoch": lease.epoch,
                "version": lease.granted_at,
                "till": lease.ends_at,
                "is_awaited": lease.is_awaited,
            })
        };
        let mark = |mark: &PendingWrite| {
            json!({
                "entry": mark.entry,
                "epoch": mark.epoch,
                "version": mark.ver,
                "is_lost": mark.is_lost,
            })
        };
        json!({
            "namespace": self.namespace,
            "key": self.key,
            "partition": partition.partition.number,
            "partitions": partition.partition.of,
            "node": partition.node,
            "epoch": clock.epoch,
            "version": clock.ver,
            "now": clock.now,
            "has_restarted": partition.has_restarted,
            "kept_ms": key.kept.map(millis),
            "other_type": key.other_type,
            "values": values.collect::<Vec<_>>(),
            "leases": key.leases.iter().map(lease).collect::<Vec<_>>(),
            "held_ms": key.held.map(millis),
            "mark": key.mark.as_ref().map(mark),
        })
    }

    fn value_as_json(&self, key: &StoredKey, value: &Result<StoredValue, DamagedValue>) -> Value {
        let value = match value {
            Ok(value) => value,
            Err(damage) => return json!({ "used": false, "why_not": [damage.to_string()] }),
        };
        let why_not = key.why_not(value);
        let tags = value.tags.iter().map(|tag| {
            let last = key.tags.get(tag).copied().flatten();
            json!({
                "tag": **tag,
                "epoch": last.map(|last| last.epoch),
                "version": last.map(|last| last.ver),
            })
        });
        let encoded = value.encoded();
        let shown = encoded.as_ref().filter(|_| self.value);
        let shown =
            shown.map(|encoded| decoded(encoded).unwrap_or_else(|| hex(&encoded.bytes).into()));
        json!({
            "type": format!("{:016x}", value.type_tag),
            "codec": encoded.as_ref().map_or(value.format(), EncodedPayload::format),
            "layer": encoded.as_ref().is_none_or(|inner| inner.codec != value.codec).then(|| value.format()),
            "shape": encoded.as_ref().and_then(|inner| inner.shape).map(|shape| format!("{shape:016x}")),
            "epoch": value.stamp.epoch,
            "version": value.stamp.ver,
            "written_at": value.stamp.written_at,
            "stale_at": value.lifetime.stale_at,
            "expires_at": value.lifetime.expires_at,
            "ends_at": value.lifetime.ends_at,
            "l1_ttl_ms": value.lifetime.l1_ttl.map(millis),
            "size": value.size,
            "payload_size": value.payload.len(),
            "tags": tags.collect::<Vec<_>>(),
            "used": why_not.is_empty(),
            "why_not": why_not.iter().map(UnusableReason::to_string).collect::<Vec<_>>(),
            "value": shown,
        })
    }
}

/// Whether Redis has nothing under the key.
fn has_nothing(key: &StoredKey) -> bool {
    key.values.is_empty()
        && key.other_type.is_none()
        && key.leases.is_empty()
        && key.held.is_none()
        && key.mark.is_none()
}

/// The value, if its format has names.
fn decoded(value: &EncodedPayload<'_>) -> Option<Value> {
    match value.codec {
        Json::ID => serde_json::from_slice(&value.bytes).ok(),
        MessagePack::ID => rmp_serde::from_slice(&value.bytes).ok(),
        _ => None,
    }
}

/// For each byte the character that begins there, a point if none does, and nothing inside a character.
fn texts(bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            texts.push(if is_hidden(char) { '.' } else { char }.to_string());
            texts.resize(texts.len() + char.len_utf8() - 1, String::new());
        }
        texts.resize(texts.len() + chunk.invalid().len(), ".".to_owned());
    }
    texts
}
