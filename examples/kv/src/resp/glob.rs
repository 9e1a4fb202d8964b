//! Redis's glob patterns, for `SCAN … MATCH` and `CONFIG GET`.
//!
//! `*` matches anything, `?` one byte, `[a-c]` and `[^a-c]` one byte of a set, and a backslash makes
//! the next byte an ordinary one. An unclosed set runs to the end of the pattern, as in Redis.

/// Whether the whole of `text` matches `pattern`.
///
/// Runs in `O(pattern × text)`: on a mismatch only the last `*` is tried again, never the ones
/// before it, so no pattern takes exponential time.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (pattern, text);
    // What to go on with when the text after the last star does not fit: one byte further.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', after)) = p.split_first() {
            retry = Some((after, t));
            p = after;
            continue;
        }
        let step = match t.split_first() {
            Some((byte, rest)) => one(p, *byte).map(|after| (after, rest)),
            None if p.is_empty() => return true,
            None => return false,
        };
        if let Some(next) = step {
            (p, t) = next;
            continue;
        }
        let Some((after, from)) = retry else { return false };
        let Some((_, from)) = from.split_first() else { return false };
        retry = Some((after, from));
        (p, t) = (after, from);
    }
}

/// The pattern after its first element, if that element matches `byte`. The element is no star.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', after @ ..] => Some(after),
        [b'[', set @ ..] => {
            let (negated, set) = match set {
                [b'^', set @ ..] => (true, set),
                set => (false, set),
            };
            let (found, after) = in_set(set, byte);
            (found != negated).then_some(after)
        }
        [b'\\', literal, after @ ..] | [literal, after @ ..] => (*literal == byte).then_some(after),
    }
}

/// Whether the set that begins here holds `byte`, and the pattern after its closing bracket.
fn in_set(mut set: &[u8], byte: u8) -> (bool, &[u8]) {
    let mut found = false;
    loop {
        set = match set {
            [] => return (found, set),
            [b']', after @ ..] => return (found, after),
            [b'\\', literal, rest @ ..] => {
                found |= *literal == byte;
                rest
            }
            [a, b'-', b, rest @ ..] => {
                found |= (*a.min(b)..=*a.max(b)).contains(&byte);
                rest
            }
            [literal, rest @ ..] => {
                found |= *literal == byte;
                rest
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn matches_as_redis_does() {
        let cases = [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*", "a", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("*b*d*", "abcde", true),
            ("*b*d", "abcde", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("?", "", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[abc", "c", true),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\", "\\", true),
            ("user:*:name", "user:17:name", true),
            ("a**b", "ab", true),
        ];
        for (pattern, text, expected) in cases {
            let got = matches(pattern.as_bytes(), text.as_bytes());
            assert_eq!(got, expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(50) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(5000).as_bytes()));
    }
}
