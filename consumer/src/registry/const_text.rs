//! Text that is built at compile time.

/// The longest message. The rest is cut off.
const CAPACITY: usize = 1024;

/// A message that is being built.
#[derive(Clone, Copy)]
pub(super) struct Text {
    bytes: [u8; CAPACITY],
    length: usize,
}

impl Text {
    pub(super) const fn new() -> Self {
        Self {
            bytes: [0; CAPACITY],
            length: 0,
        }
    }

    pub(super) const fn push(mut self, text: &str) -> Self {
        let mut rest = text.as_bytes();
        while let [byte, later @ ..] = rest {
            self = self.push_byte(*byte);
            rest = later;
        }
        self
    }

    /// `` `a`, `b` ``
    pub(super) const fn push_names(mut self, names: &[&str]) -> Self {
        let mut rest = names;
        while let [name, later @ ..] = rest {
            self = self.push("`").push(name).push("`");
            if !later.is_empty() {
                self = self.push(", ");
            }
            rest = later;
        }
        self
    }

    pub(super) const fn push_number(self, number: u32) -> Self {
        let digit = match number % 10 {
            0 => "0",
            1 => "1",
            2 => "2",
            3 => "3",
            4 => "4",
            5 => "5",
            6 => "6",
            7 => "7",
            8 => "8",
            _ => "9",
        };
        if number < 10 {
            self.push(digit)
        } else {
            self.push_number(number / 10).push(digit)
        }
    }

    const fn push_byte(mut self, byte: u8) -> Self {
        let (_, free) = self.bytes.split_at_mut(self.length);
        if let [slot, ..] = free {
            *slot = byte;
            self.length += 1;
        }
        self
    }

    pub(super) const fn as_str(&self) -> &str {
        let (written, _) = self.bytes.split_at(self.length);
        match std::str::from_utf8(written) {
            Ok(text) => text,
            // The message was cut inside a character.
            Err(error) => {
                let (whole, _) = written.split_at(error.valid_up_to());
                match std::str::from_utf8(whole) {
                    Ok(text) => text,
                    Err(_) => "",
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CAPACITY, Text};

    #[test]
    fn text_is_built() {
        let text = Text::new()
            .push("line ")
            .push_number(120)
            .push(" of ")
            .push_names(&["a", "b"]);
        assert_eq!(text.as_str(), "line 120 of `a`, `b`");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let text = Text::new().push("a").push(&"ü".repeat(CAPACITY));
        assert_eq!(text.as_str().len(), CAPACITY - 1);
    }
}
