//! The steps of a partition as functions of their own.

use std::time::Duration;

#[cfg(feature = "write-behind")]
use larder::l2::Append;
use larder::l2::{
    Batch, EncodedValue, L2Error, Partition, Stamp, Step, Version, WriteAck, Written,
};

type Answer<T> = Result<T, L2Error>;

pub trait Steps: Partition {
    fn insert(
        &self,
        values: &[(&str, &EncodedValue)],
        payload: &[u8],
        deadline: Option<u64>,
    ) -> impl Future<Output = Answer<Stamp>> + Send {
        async move {
            let (keys, values): (Vec<&str>, Vec<&EncodedValue>) = values.iter().copied().unzip();
            let batch = Batch {
                keys: &keys,
                values: &values,
                payload,
                deadline,
            };
            self.write(&Step::Insert, batch)
                .await
                .map(|written| done(written).stamp)
        }
    }

    /// `None` if another version is stored.
    fn insert_if(
        &self,
        key: &str,
        value: &EncodedValue,
        version: Version,
        payload: &[u8],
        deadline: Option<u64>,
    ) -> impl Future<Output = Answer<Option<Stamp>>> + Send {
        async move {
            let step = Step::InsertIf(version);
            Ok(
                match self.store(step, key, value, payload, deadline).await? {
                    Written::OtherVersion => None,
                    written => Some(done(written).stamp),
                },
            )
        }
    }

    #[cfg(feature = "write-behind")]
    fn append(
        &self,
        key: &str,
        value: &EncodedValue,
        append: Append,
        payload: &[u8],
        deadline: Option<u64>,
    ) -> impl Future<Output = Answer<Written>> + Send {
        let step = Step::Append(Box::new(append));
        self.store(step, key, value, payload, deadline)
    }

    /// A step that stores one value.
    fn store(
        &self,
        step: Step,
        key: &str,
        value: &EncodedValue,
        payload: &[u8],
        deadline: Option<u64>,
    ) -> impl Future<Output = Answer<Written>> + Send {
        async move {
            let batch = Batch {
                keys: &[key],
                values: &[value],
                payload,
                deadline,
            };
            self.write(&step, batch).await
        }
    }

    fn invalidate(
        &self,
        keys: &[&str],
        payload: &[u8],
        hold: Duration,
    ) -> impl Future<Output = Answer<WriteAck>> + Send {
        let is_awaited = false;
        self.ack(Step::Invalidate { hold, is_awaited }, keys, payload)
    }

    fn expire(&self, keys: &[&str], payload: &[u8]) -> impl Future<Output = Answer<Stamp>> + Send {
        async move {
            self.ack(Step::Expire, keys, payload)
                .await
                .map(|ack| ack.stamp)
        }
    }

    fn invalidate_tags(
        &self,
        tags: &[&str],
        payload: &[u8],
    ) -> impl Future<Output = Answer<Stamp>> + Send {
        async move {
            self.ack(Step::InvalidateTags, tags, payload)
                .await
                .map(|ack| ack.stamp)
        }
    }

    fn clear(&self, payload: &[u8]) -> impl Future<Output = Answer<WriteAck>> + Send {
        self.ack(Step::Clear, &[], payload)
    }

    fn end_leases(&self) -> impl Future<Output = Answer<Stamp>> + Send {
        async move {
            self.ack(Step::EndLeases, &[], &[])
                .await
                .map(|ack| ack.stamp)
        }
    }

    fn ack(
        &self,
        step: Step,
        keys: &[&str],
        payload: &[u8],
    ) -> impl Future<Output = Answer<WriteAck>> + Send {
        async move {
            let batch = Batch {
                keys,
                payload,
                ..Batch::default()
            };
            self.write(&step, batch).await.map(done)
        }
    }
}

impl<L: Partition + ?Sized> Steps for L {}

fn done(written: Written) -> WriteAck {
    match written {
        Written::Done(ack) => ack,
        other => panic!("it is not for a version, nor for a stream: {other:?}"),
    }
}
