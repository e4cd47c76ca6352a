//! Commands and answers as bytes. Source: TPM 2.0 Library, part 2 (structures) and part 3 (commands 31.3 to 31.13).

/// Largest answer read.
pub(super) const ANSWER_MAX: usize = 4096;
/// The index was written since it was defined.
pub(super) const WRITTEN: u32 = 1 << 29;
/// Tags of a command without and with an authorisation.
const PLAIN: u16 = 0x8001;
const AUTHORISED: u16 = 0x8002;
/// Whoever owns the TPM; who needs no password on a box that nobody gave one.
const OWNER: u32 = 0x4000_0001;
/// An authorisation by password.
const PASSWORD: u32 = 0x4000_0009;
/// SHA-256, as the index's name is made.
const SHA256: u16 = 0x000b;

/// A command.
pub(super) struct Command {
    pub(super) name: &'static str,
    code: u32,
    handles: Vec<u32>,
    authorised: bool,
    parameters: Vec<u8>,
}

/// An answer; without handles, since none of ours has one.
pub(super) struct Reply {
    pub(super) code: u32,
    pub(super) parameters: Vec<u8>,
}

impl Command {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut body: Vec<u8> = self.handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        if self.authorised {
            // One session: the password's handle, no nonce, no attributes, an empty password.
            let session = [&PASSWORD.to_be_bytes()[..], &[0, 0], &[0], &[0, 0]].concat();
            body.extend(length(session.len()).to_be_bytes());
            body.extend(session);
        }
        body.extend(&self.parameters);
        let tag = if self.authorised { AUTHORISED } else { PLAIN };
        [&tag.to_be_bytes()[..], &length(body.len() + 10).to_be_bytes(), &self.code.to_be_bytes(), &body].concat()
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Reply {
    /// An answer to this command; `None` when it is none.
    pub(super) fn read(bytes: Vec<u8>, to: &Command) -> Option<Self> {
        let (tag, rest) = half(&bytes)?;
        let (size, rest) = word(rest)?;
        let (code, rest) = word(rest)?;
        if length(bytes.len()) != size {
            return None;
        }
        // Before the parameters of an authorised one stands how long they are.
        let authorised = code == 0 && to.authorised;
        if tag != if authorised { AUTHORISED } else { PLAIN } {
            return None;
        }
        let parameters = if authorised {
            let (size, rest) = word(rest)?;
            rest.get(..usize::try_from(size).ok()?)?
        } else {
            rest
        };
        Some(Self { code, parameters: parameters.to_vec() })
    }
}

fn half(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (taken, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*taken), rest))
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (taken, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*taken), rest))
}

/// Bytes with their length before them.
pub(super) fn sized(bytes: &[u8]) -> Option<&[u8]> {
    let (size, rest) = half(bytes)?;
    rest.get(..usize::from(size))
}

fn with_size(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()[..], bytes].concat()
}

/// `TPM_RC_HANDLE` for the first handle: the index is not defined.
pub(super) fn is_no_such_handle(code: u32) -> bool {
    code == 0x018b
}

/// `TPM2_NV_ReadPublic`
pub(super) fn read_public(index: u32) -> Command {
    Command { name: "NV_ReadPublic", code: 0x0169, handles: vec![index], authorised: false, parameters: Vec::new() }
}

/// Attributes and size in the answer to it.
pub(super) fn public(parameters: &[u8]) -> Option<(u32, u16)> {
    let (_index, rest) = word(sized(parameters)?)?;
    let (_hash, rest) = half(rest)?;
    let (attributes, rest) = word(rest)?;
    let policy = sized(rest)?;
    let (size, _) = half(rest.get(2 + policy.len()..)?)?;
    Some((attributes, size))
}

/// `TPM2_NV_DefineSpace`
pub(super) fn define(index: u32, attributes: u32, size: u16) -> Command {
    let public = [
        &index.to_be_bytes()[..],
        &SHA256.to_be_bytes(),
        &attributes.to_be_bytes(),
        &with_size(&[]),
        &size.to_be_bytes(),
    ]
    .concat();
    Command {
        name: "NV_DefineSpace",
        code: 0x012a,
        handles: vec![OWNER],
        authorised: true,
        parameters: [with_size(&[]), with_size(&public)].concat(),
    }
}

/// `TPM2_NV_Write`, from the beginning
pub(super) fn write(index: u32, bytes: &[u8]) -> Command {
    Command {
        name: "NV_Write",
        code: 0x0137,
        handles: vec![index, index],
        authorised: true,
        parameters: [&with_size(bytes)[..], &[0, 0]].concat(),
    }
}

/// `TPM2_NV_Read`, from the beginning
pub(super) fn read(index: u32, size: u16) -> Command {
    Command {
        name: "NV_Read",
        code: 0x014e,
        handles: vec![index, index],
        authorised: true,
        parameters: [&size.to_be_bytes()[..], &[0, 0]].concat(),
    }
}
