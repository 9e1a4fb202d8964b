//! What the programs of this package have in common: how they print.

/// As [`println!`], but it does not mind when nobody reads any more, as behind `head`.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stdout(), $($text)*);
    }};
}

/// The program of the repository's README is a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
