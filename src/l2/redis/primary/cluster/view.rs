//! What a node of a cluster says of it, and which primary is believed to have a slot, by the views of several (rule
//! 26). Does no I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::replace;
use std::time::Duration;

use tokio::time::Instant;

use crate::l2::redis::server::Address;

/// An epoch that belongs to no node for this long is none of an election that is under way.
const EPOCH_WARN_AFTER: Duration = Duration::from_secs(5);

/// The view of one node.
#[derive(Clone)]
pub(super) struct View {
    /// The id of the node.
    me: String,
    /// Whether each election in which it may have voted has a winner that it knows.
    knows_winner: bool,
    /// The newest epoch that it knows, and the newest that belongs to a node.
    epoch: u64,
    owned: u64,
    /// All nodes that it knows, by their ids.
    nodes: BTreeMap<String, Node>,
    /// The id of the primary that has them.
    ranges: Ranges<String>,
}

#[derive(Clone)]
struct Node {
    address: Address,
    has_slots: bool,
    /// The id of the primary that it follows, or `-`.
    follows: String,
}

/// The views of nodes, by their ids.
#[derive(Default)]
pub(super) struct Views(BTreeMap<String, View>);

/// The primaries that are believed.
#[derive(Default)]
pub(super) struct Owners {
    ranges: Ranges<Address>,
    /// Whether that is all slots that any node names a primary for.
    pub(super) are_all: bool,
}

/// Slots and their owners: by the first slot of each range the last one, and the owner of all of them.
#[derive(Clone, Default)]
struct Ranges<T>(BTreeMap<u16, (u16, T)>);

impl<T> Ranges<T> {
    fn of(&self, slot: u16) -> Option<&T> {
        let (_, (last, owner)) = self.0.range(..=slot).next_back()?;
        (*last >= slot).then_some(owner)
    }

    fn owners(&self) -> impl Iterator<Item = &T> {
        self.0.values().map(|(_, owner)| owner)
    }
}

impl View {
    /// Reads the answers of a node to CLUSTER NODES and, after that, to CLUSTER INFO. It was asked at this address,
    /// which counts if it does not know its own.
    pub(super) fn read(nodes: &str, info: &str, asked: &Address) -> Option<Self> {
        let epoch = info.split_once("cluster_current_epoch:")?.1;
        let epoch: u64 = epoch.lines().next()?.trim().parse().ok()?;
        let mut view = Self {
            me: String::new(),
            knows_winner: false,
            epoch,
            owned: 0,
            nodes: BTreeMap::new(),
            ranges: Ranges::default(),
        };
        for line in nodes.lines() {
            view.add(line, asked)?;
        }
        // A voter takes the epoch of an election before the replica is promoted, and hears of the winner after that.
        view.knows_winner = view.owned == epoch;
        (!view.me.is_empty()).then_some(view)
    }

    /// `id ip:port@bus[,host] flags primary ping pong config-epoch link slots...`
    fn add(&mut self, line: &str, asked: &Address) -> Option<()> {
        let mut words = line.split(' ');
        let (id, place, flags) = (words.next()?, words.next()?, words.next()?);
        let follows = words.next()?.to_owned();
        let epoch: u64 = words.nth(2)?.parse().ok()?;
        self.owned = epoch.max(self.owned);
        let is_me = flags.split(',').any(|flag| flag == "myself");
        // Slots that move have brackets.
        let slots = words.skip(1).filter(|slots| !slots.starts_with('['));
        let mut has_slots = false;
        for slots in slots {
            let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
            let range = (last.parse().ok()?, id.to_owned());
            self.ranges.0.insert(first.parse().ok()?, range);
            has_slots = true;
        }
        if is_me {
            id.clone_into(&mut self.me);
        }
        // The name of a host is announced for clients; by TLS, certificates are compared with it.
        let (place, names) = place.split_once(',').unwrap_or((place, ""));
        let (ip, port) = place.split('@').next()?.rsplit_once(':')?;
        let host = [names.split(',').next()?, ip]
            .into_iter()
            .find(|host| !host.is_empty());
        let (host, port) = match host {
            None | Some("?") if is_me => asked.clone(),
            host => (host.unwrap_or_default().to_owned(), port.parse().ok()?),
        };
        if !host.is_empty() && port != 0 {
            let address = (host, port);
            let node = Node {
                address,
                has_slots,
                follows,
            };
            self.nodes.insert(id.to_owned(), node);
        }
        Some(())
    }

    /// The nodes that follow this one, or have no slots and follow none yet.
    pub(super) fn followers(&self) -> impl Iterator<Item = &Address> {
        let follows = |node: &&Node| node.follows == self.me || node.follows == "-";
        let nodes = self.nodes.values().filter(|node| !node.has_slots);
        nodes.filter(follows).map(|node| &node.address)
    }

    fn owner(&self, slot: u16) -> Option<&str> {
        self.ranges.of(slot).map(String::as_str)
    }

    /// How many primaries have slots.
    fn primaries(&self) -> usize {
        self.ranges.owners().collect::<BTreeSet<_>>().len()
    }

    /// Whether it is one of the primaries that elect.
    fn has_vote(&self) -> bool {
        self.ranges.owners().any(|owner| *owner == self.me)
    }
}

impl Views {
    pub(super) fn add(&mut self, view: View) {
        self.0.insert(view.me.clone(), view);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The addresses of all nodes that are named, of those with slots or of the others.
    pub(super) fn named(&self, has_slots: bool) -> BTreeSet<Address> {
        let nodes = self.0.values().flat_map(|view| view.nodes.values());
        let nodes = nodes.filter(|node| node.has_slots == has_slots);
        nodes.map(|node| node.address.clone()).collect()
    }

    /// The newest epoch, if it belongs to no node: then nobody knows the winner of the election that it comes from. And
    /// the id of a primary that can be given a newer epoch.
    pub(super) fn epoch_without_owner(&self) -> Option<(u64, &str)> {
        let epoch = self.0.values().map(|view| view.epoch).max()?;
        let is_owned = self.0.values().any(|view| view.owned == epoch);
        let mut primaries = self.0.values().filter(|view| view.has_vote());
        // Its own next epoch is above this one then.
        let primary = primaries.find(|view| view.epoch == epoch)?;
        (!is_owned).then_some((epoch, &*primary.me))
    }

    /// The primaries that are believed.
    pub(super) fn owners(&self) -> Owners {
        let ranges = || self.0.values().flat_map(|view| &view.ranges.0);
        // No view changes from one of these slots to the next.
        let starts = ranges().flat_map(|(first, (last, _))| [*first, last.saturating_add(1)]);
        let starts: BTreeSet<u16> = starts.collect();
        let mut owners = Owners {
            are_all: !starts.is_empty(),
            ..Owners::default()
        };
        let mut next = starts.iter().copied().skip(1);
        for first in starts.iter().copied() {
            let Some(after) = next.next() else { break };
            let named: BTreeSet<&str> = self
                .0
                .values()
                .filter_map(|view| view.owner(first))
                .collect();
            let mut believed = named.iter().filter(|id| self.is_believed(id, first));
            if let (Some(id), None) = (believed.next(), believed.next())
                && let Some(address) = self.address(id)
            {
                owners.ranges.0.insert(first, (after - 1, address.clone()));
            } else if !named.is_empty() {
                owners.are_all = false;
            }
        }
        owners
    }

    /// Whether a majority of the primaries names this one for a slot.
    ///
    /// The primary itself counts only if all that count have taken part in no election whose winner they do not know: a
    /// replica is promoted by the votes of a majority, which has a primary in common with this one. Otherwise the
    /// others have to be a majority without it: that which has believed its successor has one of them in common.
    fn is_believed(&self, id: &str, slot: u16) -> bool {
        let names_it = |view: &&View| view.has_vote() && view.owner(slot) == Some(id);
        let votes: Vec<_> = self.0.values().filter(names_it).collect();
        let primaries = votes.iter().map(|view| view.primaries()).max().unwrap_or(0);
        let others = votes.iter().filter(|view| view.me != id);
        let knowing = votes.iter().filter(|view| view.knows_winner);
        let has_own = knowing.clone().any(|view| view.me == id);
        others.count() * 2 > primaries || has_own && knowing.count() * 2 > primaries
    }

    /// As others give it, if any does: the node itself may not know its own.
    fn address(&self, id: &str) -> Option<&Address> {
        let mut others = self.0.values().filter(|view| view.me != id);
        let other = others.find_map(|view| view.nodes.get(id));
        let node = other.or_else(|| self.0.get(id)?.nodes.get(id));
        Some(&node?.address)
    }
}

/// An epoch that belongs to no node, and whether that was said.
#[derive(Default)]
pub(super) struct WithoutOwner {
    epoch: u64,
    since: Option<Instant>,
    is_said: bool,
}

impl WithoutOwner {
    /// Notes what was found. Returns whether that is to be said: once for each epoch, and only if it has lasted longer
    /// than an election takes to have a winner that all know.
    pub(super) fn is_news(&mut self, found: Option<u64>, now: Instant) -> bool {
        let Some(epoch) = found else {
            self.since = None;
            return false;
        };
        if self.epoch != epoch {
            *self = Self {
                epoch,
                ..Self::default()
            };
        }
        let since = *self.since.get_or_insert(now);
        now.duration_since(since) >= EPOCH_WARN_AFTER && !replace(&mut self.is_said, true)
    }
}

impl Owners {
    pub(super) fn of(&self, slot: u16) -> Option<&Address> {
        self.ranges.of(slot)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::ops::Range;

    use fastrand::Rng;

    use super::*;

    /// A server of a simulated cluster. All that it knows is what others have told it.
    #[derive(Clone)]
    struct Server {
        /// By shards: which server is the primary, and since which epoch.
        primaries: Vec<(usize, u64)>,
        epoch: u64,
        /// The last epoch in which it has voted.
        voted: u64,
    }

    /// So many primaries, and then a replica of each.
    struct Simulated {
        servers: Vec<Server>,
        shards: usize,
        /// The replica that wants to be promoted, its epoch and the votes that it has.
        candidate: Option<(usize, u64, BTreeSet<usize>)>,
    }

    impl Simulated {
        fn new(shards: usize) -> Self {
            let primaries: Vec<_> = (0..shards).map(|shard| (shard, shard as u64 + 1)).collect();
            let server = Server {
                primaries,
                epoch: shards as u64,
                voted: 0,
            };
            Self {
                servers: vec![server; 2 * shards],
                shards,
                candidate: None,
            }
        }

        /// A replica asks for votes, a primary votes, a replica is promoted, or a server hears of another.
        fn step(&mut self, rng: &mut Rng) {
            let shards = self.shards;
            match (rng.u8(..8), &mut self.candidate) {
                (0, None) => {
                    let replica = shards + rng.usize(..shards);
                    // One failover after the other: nodes that have not heard of one could vote in the next.
                    if !self.all_know() {
                        return;
                    }
                    let server = &mut self.servers[replica];
                    server.epoch += 1;
                    self.candidate = Some((replica, server.epoch, BTreeSet::new()));
                }
                // It has waited for too long.
                (1, candidate) => *candidate = None,
                (2 | 3, Some((replica, epoch, votes))) => {
                    let voter = rng.usize(..2 * shards);
                    let is_primary =
                        |of: usize| self.servers[of].primaries[voter % shards].0 == voter;
                    let has_vote = is_primary(voter) && is_primary(*replica);
                    let server = &mut self.servers[voter];
                    let is_late = *epoch < server.epoch || *epoch <= server.voted;
                    server.epoch = server.epoch.max(*epoch);
                    if has_vote && voter != *replica && !is_late {
                        server.voted = *epoch;
                        votes.insert(voter);
                    }
                    if votes.len() * 2 > shards {
                        let (replica, epoch) = (*replica, *epoch);
                        self.servers[replica].primaries[replica - shards] = (replica, epoch);
                        self.candidate = None;
                    }
                }
                _ => {
                    let (from, to) = (rng.usize(..2 * shards), rng.usize(..2 * shards));
                    let heard = self.servers[from].clone();
                    let server = &mut self.servers[to];
                    server.epoch = server.epoch.max(heard.epoch);
                    // A primary speaks for itself.
                    for (known, said) in server.primaries.iter_mut().zip(heard.primaries) {
                        if said.0 == from && said.1 > known.1 {
                            *known = said;
                        }
                    }
                }
            }
        }

        /// Whether all know each primary.
        fn all_know(&self) -> bool {
            let mut known = self.servers.iter().map(|server| &server.primaries);
            let first = known.next();
            known.all(|one| Some(one) == first)
        }

        fn view(&self, server: usize) -> View {
            let Server {
                primaries, epoch, ..
            } = &self.servers[server];
            let mut nodes = String::new();
            for node in 0..2 * self.shards {
                let (primary, since) = primaries[node % self.shards];
                let myself = if node == server { "myself," } else { "" };
                let role = if node == primary { "master" } else { "slave" };
                write!(
                    nodes,
                    "{node} 127.0.0.1:{}@1 {myself}{role} - 0 0 {since} connected",
                    7000 + node
                )
                .unwrap();
                if node == primary {
                    write!(
                        nodes,
                        " {}-{}",
                        node % self.shards * 100,
                        node % self.shards * 100 + 99
                    )
                    .unwrap();
                }
                nodes.push('\n');
            }
            let info = format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n");
            View::read(&nodes, &info, &Address::default()).unwrap()
        }
    }

    /// Counts by how many questions a primary is believed, a new one for the first time, and an old one after its
    /// successor was: an instance that believes that would use values which another has invalidated on the new one.
    /// Each instance is told the views of some servers at different times, after this change.
    fn believed(seeds: Range<u64>, change: impl Fn(&mut View)) -> [usize; 3] {
        let [mut by_few, mut new, mut old] = [0; 3];
        for seed in seeds {
            let mut rng = Rng::with_seed(seed);
            let mut cluster = Simulated::new(rng.usize(1..6));
            let shards = cluster.shards;
            // By shards, the epoch since which the newest primary that was believed is one.
            let mut newest = vec![0; shards];
            for _ in 0..60 {
                for _ in 0..rng.usize(..6) {
                    cluster.step(&mut rng);
                }
                let before = newest.clone();
                let mut views = Views::default();
                let mut order: Vec<_> = (0..2 * shards).collect();
                rng.shuffle(&mut order);
                let asked = rng.usize(..=2 * shards);
                for server in order.into_iter().take(asked) {
                    let mut view = cluster.view(server);
                    change(&mut view);
                    views.add(view);
                    for _ in 0..rng.usize(..20) {
                        cluster.step(&mut rng);
                    }
                }
                let owners = views.owners();
                for shard in 0..shards {
                    let owner = owners.of(u16::try_from(shard * 100).unwrap());
                    let Some(server) = owner.map(|(_, port)| usize::from(*port) - 7000) else {
                        continue;
                    };
                    let since = match cluster.servers[server].primaries[shard] {
                        (primary, since) if primary == server => since,
                        // It has heard of its successor meanwhile.
                        _ => shard as u64 + 1,
                    };
                    by_few += usize::from(views.count() * 2 <= shards + 1);
                    new += usize::from(since > newest[shard]);
                    old += usize::from(since < before[shard]);
                    newest[shard] = newest[shard].max(since);
                }
            }
        }
        [by_few, new, old]
    }

    #[test]
    fn no_primary_is_believed_once_its_successor_was() {
        let [by_few, new, old] = believed(0..200, |_| {});
        assert!(by_few > 50 && new > 400, "{by_few} {new}");
        assert_eq!(old, 0);
        // Without a look at elections the primary's own word would be enough for that: in one of 200 seeds, and in
        // others on a target with another width of `usize`.
        let believes_old = |start| {
            let [.., old] = believed(start..start + 200, |view| view.knows_winner = true);
            old > 0
        };
        assert!((0..2000).step_by(200).any(believes_old));
    }

    #[test]
    fn an_epoch_without_an_owner_is_said_once_it_lasts() {
        let (began, mut known) = (Instant::now(), WithoutOwner::default());
        let mut says = |found, seconds| known.is_news(found, began + Duration::from_secs(seconds));
        assert_eq!(
            [0, 4, 5, 6].map(|at| says(Some(7), at)),
            [false, false, true, false]
        );
        // The next election has no winner, either.
        assert_eq!(
            [7, 11, 12].map(|at| says(Some(8), at)),
            [false, false, true]
        );
        // One that others had not heard of yet has a winner.
        assert!(![says(Some(9), 13), says(None, 14), says(Some(9), 18)].contains(&true));
        assert!(says(Some(9), 23));
    }

    #[test]
    fn a_view_names_primaries_and_their_addresses() {
        let nodes = "\
a1 :7101@17101 myself,master - 0 0 4 connected 0-99 300 [77->-b2]
b2 10.0.0.2:7102@17102,redis-2.example,shard-id=5 master - 0 0 2 connected 100-299
c3 10.0.0.3:7103@17103 slave b2 0 0 2 connected
d4 :0@0 master,noaddr - 0 0 1 disconnected 400
";
        let info = "cluster_state:ok\r\ncluster_current_epoch:4\r\ncluster_my_epoch:4\r\n";
        let asked = ("seed".to_owned(), 6379);
        let view = View::read(nodes, info, &asked).unwrap();
        assert!(view.knows_winner && view.has_vote());
        assert_eq!(view.primaries(), 3);
        let owners = [0, 99, 100, 299, 300, 301].map(|slot| view.owner(slot));
        assert_eq!(
            owners,
            [
                Some("a1"),
                Some("a1"),
                Some("b2"),
                Some("b2"),
                Some("a1"),
                None
            ]
        );
        let mut views = Views::default();
        views.add(view);
        let others = BTreeSet::from([("10.0.0.3".to_owned(), 7103)]);
        assert_eq!(views.named(false), others);
        let primaries = BTreeSet::from([asked, ("redis-2.example".to_owned(), 7102)]);
        assert_eq!(views.named(true), primaries);
        // One of three primaries is no majority.
        assert!(views.owners().of(0).is_none());

        let later = info.replace("current_epoch:4", "current_epoch:5");
        assert!(
            !View::read(nodes, &later, &Address::default())
                .unwrap()
                .knows_winner
        );
        let mut views = Views::default();
        views.add(View::read(nodes, info, &Address::default()).unwrap());
        assert_eq!(views.epoch_without_owner(), None);
        views.add(View::read(nodes, &later, &Address::default()).unwrap());
        assert_eq!(views.epoch_without_owner(), Some((5, "a1")));
        for not_a_view in [
            "",
            "a1",
            "a1 :1@2 master - 0 0 x connected",
            "a1 h:7 master - 0 0 1 connected",
        ] {
            assert!(
                View::read(not_a_view, info, &Address::default()).is_none(),
                "{not_a_view}"
            );
        }
    }

    #[test]
    fn a_node_without_slots_may_follow_the_primary_later() {
        let nodes = "\
a1 10.0.0.1:7101@17101 myself,master - 0 0 4 connected 0-99
b2 10.0.0.2:7102@17102 master - 0 0 2 connected 100-199
c3 10.0.0.3:7103@17103 slave a1 0 0 4 connected
d4 10.0.0.4:7104@17104 slave b2 0 0 2 connected
e5 10.0.0.5:7105@17105 master - 0 0 0 connected
";
        let info = "cluster_current_epoch:4\r\n";
        let view = View::read(nodes, info, &Address::default()).unwrap();
        let followers: Vec<_> = view.followers().map(|(_, port)| *port).collect();
        assert_eq!(followers, [7103, 7105]);
    }
}
