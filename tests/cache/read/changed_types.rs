//! What another release of a service, which has changed a type, reads of the values of this one: the table of the guide.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;

use larder::codec::{Bincode, Codec, Json, MessagePack, Postcard};
use larder::{Cache, MemoryL2};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

trait Stored: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static> Stored
    for T
{
}

fn cache<T: Stored>(l2: &MemoryL2, codec: impl Codec) -> Cache<String, T> {
    let builder = Cache::builder("test:changed").codec(codec);
    builder.l2(l2.clone()).build().unwrap()
}

/// What the other release reads. A miss that is no error of the bytes is counted as another shape.
async fn read<T: Stored, U: Stored>(codec: impl Codec + Clone, value: &T) -> Option<U> {
    let l2 = MemoryL2::new();
    let writer = cache::<T>(&l2, codec.clone());
    writer.insert("k", value.clone()).await.unwrap();
    let reader = cache::<U>(&l2, codec.clone());
    let read = reader.get("k").await.map(|entry| U::clone(&entry));
    let stats = reader.stats();
    let nameless = [Bincode::NAME, Postcard::NAME].contains(&codec_name(&codec));
    let misses = u64::from(read.is_none());
    let expected = if nameless { (misses, 0) } else { (0, misses) };
    assert_eq!((stats.other_shapes, stats.decode_errors), expected);
    // This release reads its own value, whoever has looked at it meanwhile.
    assert_eq!(writer.get("k").await.as_deref(), Some(value));
    assert_eq!(
        cache::<T>(&l2, codec).get("k").await.as_deref(),
        Some(value)
    );
    read
}

fn codec_name<C: Codec>(_: &C) -> &'static str {
    C::NAME
}

/// Codecs without names read the value, or not; so do those with names.
async fn is_read<T: Stored, U: Stored>(value: T, nameless: Option<U>, named: Option<U>) {
    assert_eq!(read(Bincode, &value).await, nameless, "bincode");
    assert_eq!(read(Postcard, &value).await, nameless, "postcard");
    assert_eq!(read(Json, &value).await, named, "JSON");
    assert_eq!(read(MessagePack, &value).await, named, "MessagePack");
}

macro_rules! types {
    ($($(#[$attribute:meta])* $keyword:ident $name:ident $body:tt $(;)?)*) => {$(
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        $(#[$attribute])* $keyword $name $body
    )*};
}

types! {
    struct Account { budget: u32, spent: u32 }
    struct Swapped { spent: u32, budget: u32 }
    struct Renamed { budget: u32, used: u32 }
    struct RenamedForPeople { budget: u32, #[serde(rename = "spent")] used: u32 }
    struct WithAlias { budget: u32, #[serde(alias = "used")] spent: u32 }
    struct WithFormerName { budget: u32, #[serde(alias = "spent")] used: u32 }
    struct WithField { budget: u32, spent: u32, limit: Option<u32> }
    struct WithNewField { budget: u32, spent: u32, limit: u32 }
    struct WithDefault { budget: u32, spent: u32, #[serde(default)] limit: u32 }
    struct WithoutField { budget: u32 }
    struct Widened { budget: u64, spent: u32 }
    struct Signed { budget: i32, spent: u32 }
    struct Optional { budget: u32, spent: Option<u32> }
    struct AsText { budget: u32, #[serde(with = "text")] spent: u32 }
    struct Boxed { budget: Box<u32>, spent: Cow<'static, u32> }
    struct Checked { budget: u32, spent: u32 }
    struct Nested { accounts: Vec<Account> }
    struct NestedSwapped { accounts: Vec<Swapped> }
    enum Payment { Card(u32), Cash(u32) }
    enum Reordered { Cash(u32), Card(u32) }
    enum WithVariant { Card(u32), Cash(u32), Voucher }
    enum VariantRenamed { Card(u32), Coins(u32) }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Cents(u32);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct InNewtypes {
    budget: Cents,
    spent: Cents,
}

/// A type whose `Deserialize` is that of another type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Account")]
struct Validated {
    budget: u32,
    spent: u32,
}

impl TryFrom<Account> for Validated {
    type Error = &'static str;

    fn try_from(Account { budget, spent }: Account) -> Result<Self, Self::Error> {
        let is_valid = spent <= budget;
        is_valid
            .then_some(Self { budget, spent })
            .ok_or("overspent")
    }
}

mod text {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(number: &u32, output: S) -> Result<S::Ok, S::Error> {
        output.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
        let text = String::deserialize(input)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

mod moved {
    #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    pub(super) struct Account {
        pub(super) budget: u32,
        pub(super) spent: u32,
    }
}

const ACCOUNT: Account = Account {
    budget: 700,
    spent: 12,
};

#[tokio::test]
async fn fields() {
    let (budget, spent) = (700, 12);
    is_read(ACCOUNT, None, Some(Swapped { spent, budget })).await;
    is_read::<_, Renamed>(ACCOUNT, None, None).await;
    let renamed = || {
        Some(RenamedForPeople {
            budget,
            used: spent,
        })
    };
    is_read(ACCOUNT, renamed(), renamed()).await;
    let with_alias = || Some(WithAlias { budget, spent });
    is_read(ACCOUNT, with_alias(), with_alias()).await;
    is_read(
        ACCOUNT,
        None,
        Some(WithFormerName {
            budget,
            used: spent,
        }),
    )
    .await;
    let with_field = Some(WithField {
        budget,
        spent,
        limit: None,
    });
    is_read(ACCOUNT, None, with_field).await;
    is_read::<_, WithNewField>(ACCOUNT, None, None).await;
    is_read(
        ACCOUNT,
        None,
        Some(WithDefault {
            budget,
            spent,
            limit: 0,
        }),
    )
    .await;
    is_read(ACCOUNT, None, Some(WithoutField { budget })).await;
    let accounts = vec![ACCOUNT, ACCOUNT];
    let swapped = vec![Swapped { spent, budget }, Swapped { spent, budget }];
    let swapped = Some(NestedSwapped { accounts: swapped });
    is_read(Nested { accounts }, None, swapped).await;
}

#[tokio::test]
async fn kinds() {
    let (budget, spent) = (700, 12);
    is_read(ACCOUNT, None, Some(Widened { budget: 700, spent })).await;
    is_read(ACCOUNT, None, Some(Signed { budget: 700, spent })).await;
    is_read(
        ACCOUNT,
        None,
        Some(Optional {
            budget,
            spent: Some(12),
        }),
    )
    .await;
    is_read::<_, AsText>(ACCOUNT, None, None).await;
    is_read::<_, String>(ACCOUNT, None, None).await;
    is_read("12".to_owned(), None::<u64>, None).await;
}

#[tokio::test]
async fn names_and_places_of_types() {
    let (budget, spent) = (700, 12);
    let moved = || Some(moved::Account { budget, spent });
    is_read(ACCOUNT, moved(), moved()).await;
    let other_name = || Some(Checked { budget, spent });
    is_read(ACCOUNT, other_name(), other_name()).await;
    let validated = || Some(Validated { budget, spent });
    is_read(ACCOUNT, validated(), validated()).await;
    let in_newtypes = || {
        Some(InNewtypes {
            budget: Cents(budget),
            spent: Cents(spent),
        })
    };
    is_read(ACCOUNT, in_newtypes(), in_newtypes()).await;
    let boxed = || {
        Some(Boxed {
            budget: Box::new(budget),
            spent: Cow::Owned(spent),
        })
    };
    is_read(ACCOUNT, boxed(), boxed()).await;
}

#[tokio::test]
async fn variants() {
    let card = || Payment::Card(12);
    is_read(card(), None, Some(Reordered::Card(12))).await;
    is_read(
        card(),
        Some(WithVariant::Card(12)),
        Some(WithVariant::Card(12)),
    )
    .await;
    is_read(
        card(),
        Some(VariantRenamed::Card(12)),
        Some(VariantRenamed::Card(12)),
    )
    .await;
    is_read::<_, VariantRenamed>(Payment::Cash(12), None, None).await;
    let both = || vec![Payment::Card(1), Payment::Cash(2)];
    let reordered = vec![Reordered::Card(1), Reordered::Cash(2)];
    is_read(both(), None, Some(reordered)).await;
    // The very variants that a reader with another order finds, in another order.
    let mixed = || vec![Payment::Card(1), Payment::Cash(1), Payment::Card(1)];
    assert_eq!(read::<_, Vec<Reordered>>(Bincode, &mixed()).await, None);
}

/// The elements of a set or a map come in another order each time.
#[tokio::test]
async fn collections_in_any_order() {
    let payment = |n| {
        if n % 3 == 0 {
            Payment::Card(n)
        } else {
            Payment::Cash(n)
        }
    };
    for _ in 0..20 {
        let set: HashSet<Payment> = (0..50).map(payment).collect();
        assert_eq!(read(Bincode, &set).await, Some(set));
        let map: HashMap<u32, Option<Payment>> = (0..50)
            .map(|n| (n, (n % 2 == 0).then(|| payment(n))))
            .collect();
        assert_eq!(read(Postcard, &map).await, Some(map));
    }
    let other = HashMap::from([(1, Some(Reordered::Card(1)))]);
    assert_eq!(
        read::<_, HashMap<u32, Option<Payment>>>(Bincode, &other).await,
        None
    );
}

/// Once a shape is known, it is compared and not found anew.
#[tokio::test]
async fn each_value_is_compared() {
    let l2 = MemoryL2::new();
    let (accounts, swapped) = (
        cache::<Account>(&l2, Bincode),
        cache::<Swapped>(&l2, Bincode),
    );
    for n in 0..10 {
        let key = n.to_string();
        let account = Account {
            budget: n,
            spent: n + 1,
        };
        accounts.insert(&key, account.clone()).await.unwrap();
        assert_eq!(swapped.get(&key).await.as_deref(), None);
        assert_eq!(
            cache::<Account>(&l2, Bincode).get(&key).await.as_deref(),
            Some(&account)
        );
        let other = Swapped {
            budget: n,
            spent: n + 1,
        };
        swapped.insert(&key, other.clone()).await.unwrap();
        assert_eq!(
            cache::<Swapped>(&l2, Bincode).get(&key).await.as_deref(),
            Some(&other)
        );
        assert_eq!(
            cache::<Account>(&l2, Bincode).get(&key).await.as_deref(),
            None
        );
    }
}
