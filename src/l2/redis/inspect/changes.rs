//! Messages of the partitions as they come.

use std::convert::Infallible;
use std::sync::Mutex;

use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{PushInfo, PushKind, Value, cmd};
use futures::future::select_all;
use futures::{FutureExt, TryFutureExt};
use tokio::sync::mpsc;

use super::Namespace;
use super::connections::{CONNECT_TIMEOUT, at_most, in_time};
use super::log::{LoggedChange, read_log};
use crate::l2::redis::error::connect_error;
use crate::l2::redis::names::Names;
use crate::l2::{L2Error, Message, PartitionNumber};
use crate::util::lock::lock;
use crate::util::partial_debug::partial_debug;
use crate::wire::message;

/// Messages of a partition that wait to be read. More are dropped, which leaves a hole in their numbers.
const WAITING: usize = 4096;

impl Namespace {
    /// Subscribes to the changes of all partitions.
    ///
    /// Cost: a connection for each partition, and a round trip.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request.
    pub async fn changes(&self) -> Result<ChangeStream, L2Error> {
        let mut changes = ChangeStream(Vec::new());
        for partition in PartitionNumber::all(self.partitions) {
            let (sender, messages) = mpsc::channel(WAITING);
            let sender = Mutex::new(Some(sender));
            // Not by way of the shared subscriptions: those make the process a member, for which callers wait.
            let found = self.primary(partition).await?;
            let connecting = found.connector.subscriber(move |push| {
                receive(&mut lock(&sender), push);
                Ok::<_, Infallible>(())
            });
            let connecting = connecting.map_err(connect_error);
            let mut connection = at_most(CONNECT_TIMEOUT, connecting).await?;
            let names = self.names(partition);
            // A sharded channel is on the node that has the slot.
            let is_sharded = names.slot.is_some();
            let mut subscribe = cmd(if is_sharded {
                "SSUBSCRIBE"
            } else {
                "SUBSCRIBE"
            });
            subscribe.arg(&names.channel);
            in_time(subscribe.exec_async(&mut connection)).await?;
            changes.0.push(OfPartition {
                partition,
                names,
                messages,
                connection,
            });
        }
        Ok(changes)
    }
}

/// The changes of a namespace, in the order of each partition.
pub struct ChangeStream(Vec<OfPartition>);

/// The changes of one partition.
struct OfPartition {
    partition: PartitionNumber,
    names: Names,
    messages: mpsc::Receiver<Message>,
    /// The subscription ends with it.
    connection: MultiplexedConnection,
}

partial_debug!([] ChangeStream, "ChangeStream");

impl ChangeStream {
    /// The next change, with its partition. `None` if a connection has ended. A message that finds 4 096 of its partition
    /// waiting is dropped, which leaves a hole in their numbers.
    ///
    /// Safe to cancel: no change is lost by that.
    pub async fn next(&mut self) -> Option<(PartitionNumber, Message)> {
        let partitions = self.0.iter_mut().map(|of| {
            let next = async { Some((of.partition, of.messages.recv().await?)) };
            next.boxed()
        });
        select_all(partitions).await.0
    }

    /// What the log has for a change. `None` if the log has lost the change, as after a clear or some 10 000 changes
    /// later, and for a clear, which is in no log.
    ///
    /// Cost: one round trip over the connection of the partition. Safe to cancel. Needs `+xrange`.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, or refuses the request.
    pub async fn logged(
        &self,
        partition: PartitionNumber,
        change: &Message,
    ) -> Result<Option<LoggedChange>, L2Error> {
        let Some(of) = self.0.iter().find(|of| of.partition == partition) else {
            return Ok(None);
        };
        let found = read_log(&of.names, of.connection.clone(), change.seq, change.seq).await?;
        let mut found = found
            .iter()
            .filter_map(|entry| LoggedChange::read(partition, entry));
        // A message of another epoch may have the same number.
        Ok(found.find(|logged| logged.message == *change))
    }
}

/// Keeps a message, and ends the subscription at any other push but its confirmation. Runs inside the connection's
/// driver, so it does not wait.
fn receive(sender: &mut Option<mpsc::Sender<Message>>, push: PushInfo) {
    match (push.kind, push.data.get(1)) {
        (PushKind::Message | PushKind::SMessage, Some(Value::BulkString(payload))) => {
            // A notice is no message.
            if let (Some(sender), Some(message)) = (sender, message::parse(payload)) {
                // Without room it is dropped, as the docs say: the reader sees the hole.
                let _ = sender.try_send(message);
            }
        }
        (PushKind::Subscribe | PushKind::SSubscribe, _) => {}
        // Such as that the connection has ended, or that the slot has moved to another node.
        _ => *sender = None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l2::Kind;

    fn push(kind: PushKind) -> PushInfo {
        let numbers: [u8; 40] = std::array::from_fn(|at| u8::from(at % 8 == 7));
        let sent = message::payload(Kind::Clear, 1, &[]);
        let message = [&b"LM\x02"[..], &numbers, &sent].concat();
        let data = vec![
            Value::BulkString(b"channel".to_vec()),
            Value::BulkString(message),
        ];
        PushInfo { kind, data }
    }

    #[test]
    fn a_change_that_finds_no_room_is_dropped() {
        let (sender, mut changes) = mpsc::channel(2);
        let mut sender = Some(sender);
        for _ in 0..3 {
            receive(&mut sender, push(PushKind::Message));
        }
        assert_eq!(changes.len(), 2);
        assert!(changes.try_recv().is_ok());
        receive(&mut sender, push(PushKind::SMessage));
        assert_eq!(changes.len(), 2);
    }

    #[test]
    fn a_push_of_another_kind_ends_the_changes() {
        let (sender, mut changes) = mpsc::channel(2);
        let mut sender = Some(sender);
        receive(&mut sender, push(PushKind::SSubscribe));
        assert!(sender.is_some());
        receive(&mut sender, push(PushKind::SUnsubscribe));
        assert!(changes.is_closed() && changes.try_recv().is_err());
    }
}
