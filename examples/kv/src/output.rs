//! What a tool prints at its end.

use std::io::{self, ErrorKind, Write};

use crate::failure::Failure;

/// As [`println!`], but it does not mind when nobody reads any more, as behind `head`.
macro_rules! say {
    ($($text:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stdout(), $($text)*);
    }};
}
pub(crate) use say;

/// Prints to standard output.
///
/// # Errors
/// When it cannot be printed, unless whoever reads has seen enough, like `head`.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    ended(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What the end of printing means for the program.
///
/// # Errors
/// As [`print()`].
pub(crate) fn ended(printed: io::Result<()>) -> Result<(), Failure> {
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot print: {error}")))
        }
        _ => Ok(()),
    }
}
