// SPDX-License-Identifier: Apache-2.0
//! Evaluates conditions on usual exchanges, as `profiler/exchanges/filter.py` does.
//!
//! A condition is a tree of comparisons (*leaves*). A leaf holds if one of its values does. Some have
//! all their values with the request, the others only with the response. The set of leaves that hold
//! is an integer, with one bit for each.

use crate::head::{Field, Head, Start};

/// Leaves of all conditions together: the bits of a set.
pub const LEAVES_MAX: usize = 64;

/// How a text is compared.
#[derive(Debug)]
pub enum Text {
    /// It has any value.
    Exists,
    Equals(Vec<u8>),
    /// A pattern of `*`, `?` and other characters.
    Glob(Vec<u8>),
}

impl Text {
    fn holds(&self, text: &[u8]) -> bool {
        match self {
            Text::Exists => true,
            Text::Equals(wanted) => wanted == text,
            Text::Glob(glob) => matches(glob, text),
        }
    }
}

/// How a number is compared.
#[derive(Debug)]
pub enum Number {
    Exists,
    Within(f64, f64),
    Less(f64),
    LessOrEqual(f64),
    Greater(f64),
    GreaterOrEqual(f64),
}

impl Number {
    fn holds(&self, number: f64) -> bool {
        match *self {
            Number::Exists => true,
            Number::Within(least, most) => least <= number && number <= most,
            Number::Less(wanted) => number < wanted,
            Number::LessOrEqual(wanted) => number <= wanted,
            Number::Greater(wanted) => number > wanted,
            Number::GreaterOrEqual(wanted) => number >= wanted,
        }
    }
}

/// A field of an exchange or of one message, and its comparison.
#[derive(Debug)]
pub enum Leaf {
    /// It depends on the process of a message only. Python evaluates it.
    Mover,
    /// Of a message: whether the client, or the server, has moved it.
    IsClient(bool),
    Method(Text),
    Url(Text),
    Path(Text),
    Host(Text),
    /// A header, by its name in lower case.
    Header(Vec<u8>, Text),
    Status(Number),
    /// Usual exchanges have no interim response.
    Interim,
    /// In milliseconds.
    Latency(Number),
    Duration(Number),
}

/// A tree of comparisons.
#[derive(Debug)]
pub enum Condition {
    Leaf(usize),
    Not(Box<Condition>),
    Every(Vec<Condition>),
    Some(Vec<Condition>),
}

impl Condition {
    /// Whether it holds; `None` while later messages decide.
    fn evaluate(&self, truth: u64, known: u64) -> Option<bool> {
        match self {
            Condition::Leaf(index) => match (truth >> index & 1, known >> index & 1) {
                (1, _) => Some(true),
                (_, 1) => Some(false),
                _ => None,
            },
            Condition::Not(condition) => condition.evaluate(truth, known).map(|holds| !holds),
            Condition::Every(conditions) => first(conditions, truth, known, false),
            Condition::Some(conditions) => first(conditions, truth, known, true),
        }
    }
}

fn first(conditions: &[Condition], truth: u64, known: u64, decisive: bool) -> Option<bool> {
    let mut is_open = false;
    for condition in conditions {
        match condition.evaluate(truth, known) {
            Some(holds) if holds == decisive => return Some(decisive),
            None => is_open = true,
            _ => {}
        }
    }
    if is_open {
        None
    } else {
        Some(!decisive)
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Matches,
    /// The response decides.
    Open,
    /// The condition of this index does not hold.
    Dropped(usize),
}

/// Conditions that must all hold.
#[derive(Debug)]
pub struct Filter {
    leaves: Vec<Leaf>,
    conditions: Vec<Condition>,
    /// The leaves that depend on a message rather than on the exchange.
    own: u64,
    /// The leaves that are known with the request.
    early: u64,
}

impl Filter {
    /// `None`: there are too many leaves, or a condition has an index of none.
    pub fn new(leaves: Vec<Leaf>, conditions: Vec<Condition>) -> Option<Filter> {
        if leaves.len() > LEAVES_MAX || !conditions.iter().all(|one| is_valid(one, leaves.len())) {
            return None;
        }
        let set = |has: fn(&Leaf) -> bool| {
            leaves
                .iter()
                .enumerate()
                .filter(|(_, leaf)| has(leaf))
                .fold(0, |set, (index, _)| set | 1 << index)
        };
        let own = set(|leaf| matches!(leaf, Leaf::Mover | Leaf::IsClient(_)));
        let of_request = set(|leaf| {
            matches!(leaf, Leaf::Method(_) | Leaf::Url(_) | Leaf::Path(_) | Leaf::Host(_))
        });
        Some(Filter { leaves, conditions, own, early: own | of_request })
    }

    /// The number of conditions.
    pub fn len(&self) -> usize {
        self.conditions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Return the leaves that hold for a request; `None` if Python must evaluate them.
    ///
    /// `of_mover` are those that hold for its process.
    pub fn of_request(&self, head: &Head, data: &[u8], sent: bool, of_mover: u64) -> Option<u64> {
        let (method, target) = match &head.start {
            Start::Request { method, target } => (&data[method.clone()], &data[target.clone()]),
            _ => return None,
        };
        let mut truth = of_mover;
        for (index, leaf) in self.leaves.iter().enumerate() {
            let holds = match leaf {
                Leaf::IsClient(is_client) => sent == *is_client,
                Leaf::Method(_) if method.iter().any(u8::is_ascii_lowercase) => return None,
                Leaf::Method(text) => text.holds(method),
                Leaf::Url(text) => text.holds(target),
                Leaf::Path(text) => text.holds(path(target)?),
                Leaf::Host(text) => {
                    let host = data[head.host.clone()?].to_ascii_lowercase();
                    let name = without_port(&host)?;
                    text.holds(&host) || text.holds(name)
                }
                Leaf::Header(name, text) => has(head, data, name, text),
                _ => false,
            };
            truth |= u64::from(holds) << index;
        }
        Some(truth)
    }

    /// Return the leaves that hold for a final response, by itself. Times are in nanoseconds.
    pub fn of_response(
        &self,
        head: &Head,
        data: &[u8],
        sent: bool,
        of_mover: u64,
        [latency, duration]: [u64; 2],
    ) -> u64 {
        let status = match head.start {
            Start::Response { status, .. } => status,
            _ => 0,
        };
        let mut truth = of_mover;
        for (index, leaf) in self.leaves.iter().enumerate() {
            let holds = match leaf {
                Leaf::IsClient(is_client) => sent != *is_client,
                Leaf::Header(name, text) => has(head, data, name, text),
                Leaf::Status(number) => number.holds(f64::from(status)),
                Leaf::Latency(number) => number.holds(latency as f64 / 1e6),
                Leaf::Duration(number) => number.holds(duration as f64 / 1e6),
                _ => false,
            };
            truth |= u64::from(holds) << index;
        }
        truth
    }

    /// Decide on a request, of which these leaves hold, before its response.
    pub fn decide_early(&self, of_request: u64) -> Verdict {
        self.decide(of_request, self.early)
    }

    /// Decide on a message, of which these leaves hold, with those of the `other` one.
    pub fn decide_late(&self, message: u64, other: u64) -> Verdict {
        self.decide(message | (other & !self.own), u64::MAX)
    }

    fn decide(&self, truth: u64, known: u64) -> Verdict {
        let mut verdict = Verdict::Matches;
        for (index, condition) in self.conditions.iter().enumerate() {
            match condition.evaluate(truth, known) {
                Some(false) => return Verdict::Dropped(index),
                None => verdict = Verdict::Open,
                Some(true) => {}
            }
        }
        verdict
    }
}

fn is_valid(condition: &Condition, leaves: usize) -> bool {
    match condition {
        Condition::Leaf(index) => *index < leaves,
        Condition::Not(condition) => is_valid(condition, leaves),
        Condition::Every(conditions) | Condition::Some(conditions) => {
            conditions.iter().all(|one| is_valid(one, leaves))
        }
    }
}

fn has(head: &Head, data: &[u8], name: &[u8], text: &Text) -> bool {
    let is_it = |field: &&Field| data[field.start..field.colon].eq_ignore_ascii_case(name);
    head.fields.iter().filter(is_it).any(|field| text.holds(&data[field.value.clone()]))
}

/// The path of a target in origin form (RFC 9112, 3.2.1); Python reads other forms.
fn path(target: &[u8]) -> Option<&[u8]> {
    if target.first() != Some(&b'/') {
        return None;
    }
    let end = target.iter().position(|byte| matches!(byte, b'?' | b'#'));
    Some(&target[..end.unwrap_or(target.len())])
}

/// The name of a usual host, which may have a port, as `_AUTHORITY` of `exchanges/model.py`.
fn without_port(host: &[u8]) -> Option<&[u8]> {
    let size = host
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || b"._~-".contains(byte)))
        .unwrap_or(host.len());
    let is_usual = match &host[size..] {
        [] => true,
        [b':', port @ ..] => matches!(port.len(), 1..=5) && port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    (size > 0 && is_usual).then_some(&host[..size])
}

/// Whether the whole of `text` matches a pattern. Only the last `*` is tried again, so the time is
/// at most the product of both sizes.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    let (mut at, mut in_glob) = (0, 0);
    let mut star = None;
    while at < text.len() {
        match glob.get(in_glob) {
            Some(b'*') => {
                star = Some((in_glob, at));
                in_glob += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[at] => {
                in_glob += 1;
                at += 1;
            }
            _ => match &mut star {
                None => return false,
                Some((place, from)) => {
                    *from += 1;
                    (at, in_glob) = (*from, *place + 1);
                }
            },
        }
    }
    glob[in_glob..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Head {
        Head::parse(text.as_bytes(), 1000, Vec::new()).unwrap()
    }

    #[test]
    fn patterns() {
        for (glob, text, expected) in [
            ("", "", true),
            ("*", "", true),
            ("**", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*b*b", "abcbcb", true),
            ("*b*b?", "abcb", false),
            ("a", "ab", false),
            ("ab", "a", false),
            ("/api/*", "/api/", true),
        ] {
            assert_eq!(matches(glob.as_bytes(), text.as_bytes()), expected, "{glob} {text}");
        }
    }

    #[test]
    fn conditions_have_three_values() {
        use Condition::{Every, Leaf, Not};
        let some = |conditions| Condition::Some(conditions);
        // Leaf 0 holds, 1 does not, 2 is open.
        for (condition, expected) in [
            (Leaf(0), Some(true)),
            (Leaf(1), Some(false)),
            (Leaf(2), None),
            (Not(Box::new(Leaf(1))), Some(true)),
            (Not(Box::new(Leaf(2))), None),
            (Every(vec![Leaf(0), Leaf(2)]), None),
            (Every(vec![Leaf(2), Leaf(1)]), Some(false)),
            (Every(vec![Leaf(0)]), Some(true)),
            (some(vec![Leaf(2), Leaf(0)]), Some(true)),
            (some(vec![Leaf(1), Leaf(2)]), None),
            (some(vec![Leaf(1)]), Some(false)),
        ] {
            assert_eq!(condition.evaluate(1, 3), expected, "{condition:?}");
        }
    }

    #[test]
    fn decides_an_exchange() {
        let leaves = vec![
            Leaf::Path(Text::Glob(b"/a*".to_vec())),
            Leaf::Status(Number::Within(500.0, 599.0)),
            Leaf::IsClient(true),
        ];
        let conditions = (0..3).map(Condition::Leaf).collect();
        let filter = Filter::new(leaves, conditions).unwrap();
        let request = "GET /ab?c HTTP/1.1\r\n\r\n";
        let asked = filter.of_request(&head(request), request.as_bytes(), true, 0).unwrap();
        assert_eq!(filter.decide_early(asked), Verdict::Open);
        for (status, sent, verdict) in [
            (500, false, Verdict::Matches),
            (404, false, Verdict::Dropped(1)),
            (500, true, Verdict::Dropped(2)),
        ] {
            let response = format!("HTTP/1.1 {status} X\r\n\r\n");
            let data = response.as_bytes();
            let answered = filter.of_response(&head(&response), data, sent, 0, [1, 2]);
            assert_eq!(filter.decide_late(answered, asked), verdict);
        }
        let other = "GET /b HTTP/1.1\r\n\r\n";
        let asked = filter.of_request(&head(other), other.as_bytes(), true, 0).unwrap();
        assert_eq!(filter.decide_early(asked), Verdict::Dropped(0));
        let absolute = "GET http://a/b HTTP/1.1\r\n\r\n";
        assert_eq!(filter.of_request(&head(absolute), absolute.as_bytes(), true, 0), None);
        assert!(Filter::new(Vec::new(), vec![Condition::Leaf(0)]).is_none());
    }

    #[test]
    fn hosts() {
        for (host, name) in [
            ("a.example:80", Some("a.example")),
            ("a", Some("a")),
            ("", None),
            (":80", None),
            ("a:", None),
            ("a:123456", None),
            ("[::1]:80", None),
            ("a@b", None),
        ] {
            assert_eq!(without_port(host.as_bytes()), name.map(str::as_bytes), "{host}");
        }
    }
}
