//! The query of a request, and texts that are percent-encoded.

use super::reply::Reply;

/// The names and values of a query.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Refuses a name that the route does not take, so that a misspelled name changes nothing.
    pub(super) fn parse(query: Option<&str>, taken: &[&str]) -> Result<Self, Reply> {
        let mut all: Vec<(String, String)> = Vec::new();
        let query = query.unwrap_or_default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text: &str| {
                // As forms and their libraries write a space.
                let text = decoded(&text.replace('+', " "));
                text.ok_or_else(|| Reply::bad_request("the query is not percent-encoded UTF-8"))
            };
            let (name, value) = (decoded(name)?, decoded(value)?);
            if !taken.contains(&&*name) {
                let taken = match taken {
                    [] => "no query".to_owned(),
                    names => format!("only the query {}", names.join(", ")),
                };
                return Err(Reply::bad_request(format_args!("this path takes {taken}")));
            }
            // Programs differ in which of the two counts.
            if all.iter().any(|(other, _)| *other == name) {
                return Err(Reply::bad_request(format_args!(
                    "the query has {name} more than once"
                )));
            }
            all.push((name, value));
        }
        Ok(Self(all))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| &**value)
    }
}

/// The text, unless it is wrongly encoded or no UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        // `from_str_radix` alone would take a sign.
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        bytes.extend(rest.bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn only_whole_and_valid_encodings_are_decoded() {
        for (text, plain) in [
            ("", Some("")),
            ("tea", Some("tea")),
            ("a%2Fb%3a%25", Some("a/b:%")),
            ("%C3%A4%00", Some("ä\0")),
            ("%", None),
            ("%2", None),
            ("%+1", None),
            ("%2g", None),
            ("%2ä", None),
            ("%ä", None),
            ("%FF", None),
        ] {
            assert_eq!(decoded(text).as_deref(), plain, "{text}");
        }
    }
}
