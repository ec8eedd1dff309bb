//! A value that an instance has stored is read by the others as it was. A value that they could not read, or would read
//! as another one, is not stored, whatever values of its type were stored before.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use larder::codec::{Auto, Bincode, CodecStack, Compressed, Json, MessagePack, Postcard};
use larder::{Cache, MemoryL2};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime;

/// Two instances, of which the first stores values for the second.
struct Pair<V: Send + Sync + 'static> {
    writer: Cache<u64, V>,
    reader: Cache<u64, V>,
}

impl<V: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static> Pair<V> {
    async fn by(codec: impl CodecStack + Copy) -> Self {
        let l2 = MemoryL2::new();
        let instance = async || {
            let builder = Cache::builder("test:read_back").l2(l2.clone());
            let cache = builder.l1_capacity(100).codec(codec).build().unwrap();
            cache.ready().await;
            cache
        };
        let (writer, reader) = (instance().await, instance().await);
        Self { writer, reader }
    }

    /// Whether a value is stored. If it is, the other instance reads it as it was; otherwise nobody finds it.
    async fn stores(&self, key: u64, value: &V) -> bool {
        let stored = self.writer.insert(&key, value.clone()).await;
        let read = self.reader.get(&key).await;
        let Err(error) = stored else {
            let read = read.unwrap_or_else(|| panic!("{value:?} was stored, and cannot be read"));
            assert_eq!(format!("{:?}", *read), format!("{value:?}"));
            return true;
        };
        assert!(error.is_encode(), "{error}");
        assert!(read.is_none() && self.writer.get(&key).await.is_none());
        false
    }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(future)
}

/// Stores random values one after the other.
fn come_back<V>(codec: impl CodecStack + Copy, values: &(impl Strategy<Value = V> + Clone))
where
    V: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    wait(async {
        let pair = &Pair::by(codec).await;
        let mut runner = TestRunner::deterministic();
        for key in 0..runner.config().cases {
            let value = values.new_tree(&mut runner).unwrap().current();
            pair.stores(key.into(), &value).await;
        }
    });
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Small(u8),
    Large(u16),
    Ratio(f64),
    Text(String),
    Many(Vec<Option<i64>>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Huge { number: u128 },
    Small { number: u8 },
    Nothing,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Folder {
    inner: Option<Box<Folder>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    price: Option<f64>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
    address: IpAddr,
}

fn untagged() -> impl Strategy<Value = Untagged> + Clone {
    prop_oneof![
        any::<u8>().prop_map(Untagged::Small),
        any::<u16>().prop_map(Untagged::Large),
        any::<f64>().prop_map(Untagged::Ratio),
        "[a-z]{0,3}".prop_map(Untagged::Text),
        vec(any::<Option<i64>>(), 0..3).prop_map(Untagged::Many),
    ]
}

fn tagged() -> impl Strategy<Value = Tagged> + Clone {
    prop_oneof![
        any::<u128>().prop_map(|number| Tagged::Huge { number }),
        any::<u8>().prop_map(|number| Tagged::Small { number }),
        Just(Tagged::Nothing),
    ]
}

fn json() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,3}".prop_map(Value::from),
        vec(any::<f64>(), 0..3).prop_map(|all| json!({ "all": all })),
    ]
}

fn folder() -> impl Strategy<Value = Folder> + Clone {
    (0..200).prop_map(|levels| {
        let last = Folder { inner: None };
        (0..levels).fold(last, |inner, _| Folder {
            inner: Some(Box::new(inner)),
        })
    })
}

fn row() -> impl Strategy<Value = Row> + Clone {
    let rest = proptest::collection::btree_map("[a-z]{1,2}", json(), 0..3);
    let parts = (any::<u64>(), any::<Option<String>>(), any::<Option<f64>>());
    (parts, rest, any::<IpAddr>()).prop_map(|((id, note, price), rest, address)| Row {
        id,
        note,
        price,
        rest,
        address,
    })
}

fn all_come_back(codec: impl CodecStack + Copy) {
    come_back(codec, &any::<f64>());
    come_back(codec, &any::<f32>());
    come_back(codec, &vec(any::<f64>(), 0..5));
    come_back(codec, &any::<Option<f32>>());
    come_back(codec, &any::<(i128, u128, char, String)>());
    come_back(codec, &any::<Option<Option<u8>>>());
    come_back(codec, &any::<Option<()>>());
    come_back(codec, &any::<std::collections::BTreeSet<u16>>());
    come_back(codec, &vec(untagged(), 0..3));
    come_back(codec, &proptest::option::of(tagged()));
    come_back(
        codec,
        &proptest::collection::hash_map(any::<u8>(), json(), 0..3).prop_map(
            // In an order that can be compared.
            |map| map.into_iter().collect::<BTreeMap<_, _>>(),
        ),
    );
    come_back(codec, &folder());
    come_back(codec, &row());
}

#[test]
fn by_bincode() {
    all_come_back(Bincode);
}

#[test]
fn by_json() {
    all_come_back(Json);
}

#[test]
fn by_messagepack() {
    all_come_back(MessagePack);
}

#[test]
fn by_postcard() {
    all_come_back(Postcard);
}

#[test]
fn by_default() {
    all_come_back(Auto);
    all_come_back(Compressed::new(Auto).threshold(0));
}

/// Stores all of these values by default. Returns whether each takes the bytes that bincode gives it.
fn by_bincode_or_otherwise<V>(values: &[V]) -> Vec<bool>
where
    V: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    wait(async {
        let (by_default, by_bincode) = (Pair::by(Auto).await, Pair::by(Bincode).await);
        let mut all = Vec::new();
        for (key, value) in (0..).zip(values) {
            assert!(by_default.stores(key, value).await, "{value:?}");
            let written = |pair: &Pair<V>| pair.writer.stats().l2_written_bytes;
            let before = (written(&by_default), written(&by_bincode));
            let is_held = by_bincode.stores(key, value).await;
            by_default.writer.insert(&key, value.clone()).await.unwrap();
            let taken = (
                written(&by_default) - before.0,
                written(&by_bincode) - before.1,
            );
            assert!(!is_held || taken.0 == taken.1, "{value:?} takes {taken:?}");
            all.push(is_held);
        }
        all
    })
}

#[test]
fn the_default_takes_bincode_for_each_value_that_it_can_hold() {
    assert_eq!(by_bincode_or_otherwise(&[0.5, f64::NAN]), [true; 2]);
    assert_eq!(
        by_bincode_or_otherwise(&[Some(None), Some(Some(1))]),
        [true; 2]
    );
    let values = [json!({}), json!([1, 0.5, null]), json!({"a": {"b": [-7]}})];
    assert_eq!(by_bincode_or_otherwise(&values), [false; 3]);
    assert_eq!(
        by_bincode_or_otherwise(&[None, Some(json!(7))]),
        [true, false]
    );
    let values = [
        Untagged::Small(1),
        Untagged::Large(300),
        Untagged::Text("a".into()),
    ];
    assert_eq!(by_bincode_or_otherwise(&values), [false; 3]);
    let values = [
        vec![],
        vec![Tagged::Nothing],
        vec![Tagged::Small { number: 7 }],
    ];
    assert_eq!(by_bincode_or_otherwise(&values), [true, false, false]);
    let row = |rest| Row {
        id: 7,
        note: None,
        price: Some(0.5),
        rest,
        address: IpAddr::from([127, 0, 0, 1]),
    };
    let rest = BTreeMap::from([("a".to_owned(), json!([7]))]);
    assert_eq!(
        by_bincode_or_otherwise(&[row(BTreeMap::new()), row(rest)]),
        [false; 2]
    );

    let sparse = |note: Option<&str>| Sparse {
        id: 7,
        note: note.map(str::to_owned),
    };
    let values = [sparse(Some("a")), sparse(None), sparse(Some("b"))];
    assert_eq!(by_bincode_or_otherwise(&values), [true, false, true]);
}

/// Stores the first of the values, and then not the others.
fn only_the_first<V>(codec: impl CodecStack + Copy, values: &[V])
where
    V: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    wait(async {
        let pair = Pair::by(codec).await;
        for (n, value) in values.iter().enumerate() {
            let key = n.try_into().unwrap();
            assert_eq!(pair.stores(key, value).await, n == 0, "{value:?}");
        }
    });
}

#[test]
fn no_value_is_as_good_as_another_one() {
    let map = |value| BTreeMap::from([("cart".to_owned(), value)]);
    only_the_first(Bincode, &[BTreeMap::new(), map(json!([7]))]);
    only_the_first(Bincode, &[None, Some(Value::Null)]);
    only_the_first(Postcard, &[vec![], vec![Untagged::Small(1)]]);
    only_the_first(Json, &[Some(0.5), Some(f64::NAN), Some(f64::INFINITY)]);
    only_the_first(Json, &[0.5, f64::NAN, f64::NEG_INFINITY]);
    only_the_first(MessagePack, &[Some(Some(1)), Some(None)]);
    let wide = Untagged::Large(300);
    only_the_first(Json, &[wide.clone(), Untagged::Large(5)]);
    only_the_first(MessagePack, &[vec![wide], vec![Untagged::Large(5)]]);
    let huge = Tagged::Huge { number: u128::MAX };
    only_the_first(Json, &[Tagged::Nothing, huge.clone()]);
    only_the_first(Auto, &[Tagged::Nothing, huge]);
    let nested = |none| (json!(7), Some(none));
    only_the_first(Auto, &[nested(Some(1)), nested(None)]);
}

/// The field that the reason of an error names.
async fn named<V>(codec: impl CodecStack + Copy, value: V) -> String
where
    V: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    let error = Pair::by(codec)
        .await
        .writer
        .insert(&1, value)
        .await
        .unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    let field = reason.split('`').nth(1);
    field.unwrap_or_else(|| panic!("{reason}")).to_owned()
}

#[tokio::test]
async fn the_error_names_the_field() {
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Order {
        lines: Vec<Line>,
    }
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Line {
        name: String,
        price: f64,
        discount: Option<Inner>,
    }
    /// Comes back as no value.
    #[derive(Debug, Clone, Serialize, Deserialize)]
    struct Inner(Option<f32>);
    let line = |price, discount: Option<Option<f32>>| Line {
        name: "tea".to_owned(),
        price,
        discount: discount.map(Inner),
    };
    for (field, wrong) in [
        ("price", line(f64::NAN, None)),
        ("discount", line(1.5, Some(None))),
    ] {
        let lines = vec![line(1.0, Some(Some(0.5))), wrong];
        assert_eq!(named(Json, Order { lines }).await, field);
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Shop<T> {
    name: (u8, String),
    goods: Vec<Good<T>>,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Good<T> {
    Sold { id: u8, details: T, price: (u8, u8) },
}
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Loose {
    id: u8,
    #[serde(flatten)]
    rest: BTreeMap<String, u8>,
}
fn shop<T>(details: T) -> Shop<T> {
    let good = Good::Sold {
        id: 1,
        details,
        price: (1, 2),
    };
    Shop {
        name: (1, "tea".to_owned()),
        goods: vec![good],
    }
}
async fn names_details<T>(details: T)
where
    T: Serialize + DeserializeOwned + Clone + Debug + Send + Sync + 'static,
{
    assert_eq!(named(Bincode, shop(details.clone())).await, "details");
    assert_eq!(named(Postcard, shop(details)).await, "details");
}

/// Is written with a total, and read without it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sum {
    parts: std::collections::HashSet<u32>,
    #[serde(skip_deserializing)]
    total: u32,
    note: Option<String>,
}

#[tokio::test]
async fn a_value_that_is_read_with_another_part_is_not_stored() {
    let sum = |total| Sum {
        parts: (0..100).collect(),
        total,
        note: Some("a".to_owned()),
    };
    let is_stored = async |pair: Pair<Sum>, total| {
        let stored = pair.writer.insert(&1, sum(total)).await.is_ok();
        assert_eq!(pair.reader.get(&1).await.is_some(), stored);
        stored
    };
    for total in [0, 7] {
        let is_held = total == 0;
        assert_eq!(is_stored(Pair::by(Json).await, total).await, is_held);
        assert_eq!(is_stored(Pair::by(MessagePack).await, total).await, is_held);
        assert_eq!(is_stored(Pair::by(Auto).await, total).await, is_held);
    }
    assert_eq!(named(Json, sum(7)).await, "total");
    assert_eq!(named(Auto, sum(7)).await, "total");
}

#[tokio::test]
async fn the_error_of_a_format_without_names_names_the_field() {
    names_details(json!([7])).await;
    names_details(Untagged::Large(7)).await;
    names_details(Loose {
        id: 7,
        rest: BTreeMap::new(),
    })
    .await;
    names_details(Odd).await;
    let sparse = Sparse { id: 7, note: None };
    assert_eq!(named(Bincode, shop(sparse)).await, "note");
    assert_eq!(
        named(Auto, shop((json!(7), Some(None::<u8>)))).await,
        "details"
    );
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sparse {
    id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// Is written, and refuses to be read.
#[derive(Debug, Clone)]
struct Odd;

impl Serialize for Odd {
    fn serialize<S: serde::Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.serialize_u8(7)
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        u8::deserialize(input)?;
        Err(serde::de::Error::custom("not to be read"))
    }
}
