//! AMF0, as far as RTMP commands use it.
/// Values inside values.
const MAX_DEPTH: usize = 8;
/// Values in one message.
const MAX_VALUES: usize = 512;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    Boolean(bool),
    Text(String),
    Object(Vec<(String, Value)>),
    Null,
}

impl Value {
    pub(crate) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn number(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// Reads all values of a message; `None` when it makes no sense.
pub(crate) fn read(bytes: &[u8]) -> Option<Vec<Value>> {
    let mut reader = Reader { bytes, left: MAX_VALUES };
    let mut values = Vec::new();
    while !reader.bytes.is_empty() {
        values.push(reader.value(0)?);
    }
    Some(values)
}

struct Reader<'a> {
    bytes: &'a [u8],
    left: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(count)?;
        self.bytes = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn short_text(&mut self) -> Option<String> {
        let length = u16::from_be_bytes(self.array()?);
        Some(String::from_utf8_lossy(self.take(length.into())?).into_owned())
    }

    fn fields(&mut self, depth: usize) -> Option<Vec<(String, Value)>> {
        let mut fields = Vec::new();
        loop {
            let name = self.short_text()?;
            if name.is_empty() && self.bytes.first() == Some(&9) {
                self.take(1)?;
                return Some(fields);
            }
            fields.push((name, self.value(depth + 1)?));
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.left = self.left.checked_sub(1)?;
        if depth > MAX_DEPTH {
            return None;
        }
        let [marker] = self.array()?;
        Some(match marker {
            0 => Value::Number(f64::from_be_bytes(self.array()?)),
            1 => Value::Boolean(self.array::<1>()? != [0]),
            2 => Value::Text(self.short_text()?),
            3 => Value::Object(self.fields(depth)?),
            5 | 6 => Value::Null,
            8 => {
                self.take(4)?;
                Value::Object(self.fields(depth)?)
            }
            10 => {
                let count = u32::from_be_bytes(self.array()?);
                for _ in 0..count {
                    self.value(depth + 1)?;
                }
                Value::Null
            }
            11 => {
                let date = f64::from_be_bytes(self.array()?);
                self.take(2)?;
                Value::Number(date)
            }
            12 => {
                let length = u32::from_be_bytes(self.array()?);
                Value::Text(String::from_utf8_lossy(self.take(usize::try_from(length).ok()?)?).into_owned())
            }
            _ => return None,
        })
    }
}

/// Writes values one after the other. Texts longer than 65 535 bytes are cut.
pub(crate) fn write(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| push(&mut out, value));
    out
}

fn push(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            out.push(0);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Boolean(truth) => out.extend_from_slice(&[1, u8::from(*truth)]),
        Value::Text(text) => {
            out.push(2);
            push_text(out, text);
        }
        Value::Object(fields) => {
            out.push(3);
            for (name, value) in fields {
                push_text(out, name);
                push(out, value);
            }
            out.extend_from_slice(&[0, 0, 9]);
        }
        Value::Null => out.push(5),
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend(text.bytes().take(length.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let values = vec![
            Value::Text("connect".into()),
            Value::Number(1.0),
            Value::Object(vec![("app".into(), Value::Text("live".into())), ("x".into(), Value::Boolean(true))]),
            Value::Null,
        ];
        assert_eq!(read(&write(&values)), Some(values));
    }

    #[test]
    fn hostile_messages_are_refused() {
        let nested = [[3, 0, 1, b'a'].repeat(100_000), vec![5]].concat();
        assert_eq!(read(&nested), None, "too deep");
        assert_eq!(read(&[10, 0xff, 0xff, 0xff, 0xff, 5, 5]), None, "an array without its values");
        assert_eq!(read(&[5; MAX_VALUES + 1]), None, "too many");
        assert_eq!(read(&[12, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(read(&[17]), None);
    }
}
