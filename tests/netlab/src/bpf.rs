//! Packet programs of a few instructions, assembled here so that no compiler for BPF is needed. Anything longer belongs
//! into a built object, not here.

use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

use crate::LabError;

/// One instruction of the machine of RFC 9669 (BPF ISA), in the kernel's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, source and operation.
    pub opcode: u8,
    /// The register that is written, 0 to 10.
    pub destination: u8,
    /// The register that is read, 0 to 10.
    pub source: u8,
    /// Offset of a load, a store or a jump (in instructions, from the next one).
    pub offset: i16,
    /// Immediate value.
    pub immediate: i32,
}

/// Where a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Native XDP: each frame that is received, before the kernel makes a packet of it. One program an interface.
    Xdp,
    /// tc ingress (tcx): each packet that is received, after XDP.
    Ingress,
    /// tc egress (tcx): each packet that the kernel sends; not what XDP sends.
    Egress,
}

/// A packet program that is not loaded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    name: &'static str,
    instructions: Vec<Instruction>,
}

/// A program at its interface. Dropping this detaches it; the kernel also does so when the process dies.
#[derive(Debug)]
pub struct Attachment {
    _object: Ebpf,
}

/// Verdicts of tc programs (`linux/pkt_cls.h`).
pub(crate) const TC_NEXT: i32 = -1;
pub(crate) const TC_DROP: i32 = 2;
const XDP_PASS: i32 = 2;

impl Program {
    /// A program of these instructions. The name has at most 15 letters, digits and underscores.
    pub fn new(name: &'static str, instructions: Vec<Instruction>) -> Self {
        Self { name, instructions }
    }

    /// An XDP program that passes every frame.
    pub fn pass() -> Self {
        Self::new("netlab_pass", vec![Instruction::set(0, XDP_PASS), Instruction::exit()])
    }

    /// Loads the program and attaches it to an interface of the calling thread's namespace.
    pub(crate) fn attach(&self, interface: &str, hook: Hook) -> Result<Attachment, LabError> {
        let failed = |reason: String| LabError::Program { program: self.name.to_owned(), reason };
        let file = self.object(hook).map_err(|error| failed(error.to_string()))?;
        let mut object = EbpfLoader::new().load(&file).map_err(|error| failed(chain(&error)))?;
        let program = object.program_mut(self.name).ok_or_else(|| failed("it is not in its own object".to_owned()))?;
        let attached = match hook {
            Hook::Xdp => <&mut Xdp>::try_from(program).and_then(|program| {
                program.load()?;
                program.attach(interface, XdpMode::Driver).map(drop)
            }),
            Hook::Ingress | Hook::Egress => <&mut SchedClassifier>::try_from(program).and_then(|program| {
                program.load()?;
                let side = if hook == Hook::Ingress { TcAttachType::Ingress } else { TcAttachType::Egress };
                program.attach(interface, side).map(drop)
            }),
        };
        attached.map_err(|error| failed(format!("at {interface}: {}", chain(&error))))?;
        Ok(Attachment { _object: object })
    }

    /// The object file that the loader wants: one section, one function, and the licence that helpers ask for.
    fn object(&self, hook: Hook) -> Result<Vec<u8>, object::write::Error> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let section = match hook {
            // `frags`: jumbo frames do not keep it from being attached.
            Hook::Xdp => "xdp.frags",
            Hook::Ingress | Hook::Egress => "classifier",
        };
        let code: Vec<u8> = self.instructions.iter().flat_map(|instruction| instruction.bytes()).collect();
        let text = object.add_section(Vec::new(), section.into(), SectionKind::Text);
        object.append_section_data(text, &code, 8);
        object.add_symbol(Symbol {
            name: self.name.into(),
            value: 0,
            size: code.len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Section(text),
            flags: SymbolFlags::None,
        });
        let license = object.add_section(Vec::new(), "license".into(), SectionKind::Data);
        object.append_section_data(license, b"GPL\0", 1);
        object.write()
    }
}

/// The instructions that the programs here are made of.
impl Instruction {
    const fn new(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self { opcode, destination, source, offset, immediate }
    }

    /// `r<destination> = value`
    pub const fn set(destination: u8, value: i32) -> Self {
        Self::new(0xb7, destination, 0, 0, value)
    }

    /// `r<destination> = r<source>`
    pub const fn copy(destination: u8, source: u8) -> Self {
        Self::new(0xbf, destination, source, 0, 0)
    }

    /// `r<destination> += value`
    pub const fn add(destination: u8, value: i32) -> Self {
        Self::new(0x07, destination, 0, 0, value)
    }

    /// `r<destination> = *(u32 *)(r<source> + offset)`
    pub const fn load_word(destination: u8, source: u8, offset: i16) -> Self {
        Self::new(0x61, destination, source, offset, 0)
    }

    /// `r<destination> = *(u16 *)(r<source> + offset)`
    pub const fn load_half(destination: u8, source: u8, offset: i16) -> Self {
        Self::new(0x69, destination, source, offset, 0)
    }

    /// `*(u16 *)(r<destination> + offset) = r<source>`
    pub const fn store_half(destination: u8, offset: i16, source: u8) -> Self {
        Self::new(0x6b, destination, source, offset, 0)
    }

    /// `r0 = ` the 16 bits of the packet at that place, in host order. For tc programs; `r6` must hold the context.
    /// A packet that is too short ends the program with verdict 0.
    pub const fn packet_half(at: i32) -> Self {
        Self::new(0x28, 0, 0, 0, at)
    }

    /// `r0 = ` the byte of the packet at that place; as [`packet_half`](Self::packet_half).
    pub const fn packet_byte(at: i32) -> Self {
        Self::new(0x30, 0, 0, 0, at)
    }

    /// `if r<left> == value`, jump over that many instructions.
    pub const fn skip_if_equal(left: u8, value: i32, over: i16) -> Self {
        Self::new(0x15, left, 0, over, value)
    }

    /// `if r<left> != value`, jump over that many instructions.
    pub const fn skip_unless_equal(left: u8, value: i32, over: i16) -> Self {
        Self::new(0x55, left, 0, over, value)
    }

    /// `if r<left> > r<right>`, jump over that many instructions.
    pub const fn skip_if_above(left: u8, right: u8, over: i16) -> Self {
        Self::new(0x2d, left, right, over, 0)
    }

    /// `if (u32)r<left> < value`, jump over that many instructions.
    pub const fn skip_if_word_below(left: u8, value: u32, over: i16) -> Self {
        Self::new(0xa6, left, 0, over, value.cast_signed())
    }

    /// Jump over that many instructions.
    pub const fn skip(over: i16) -> Self {
        Self::new(0x05, 0, 0, over, 0)
    }

    /// `r0 = ` the kernel's function of that number; `r1` to `r5` are lost.
    pub const fn call(function: i32) -> Self {
        Self::new(0x85, 0, 0, 0, function)
    }

    /// Ends the program with the verdict in `r0`.
    pub const fn exit() -> Self {
        Self::new(0x95, 0, 0, 0, 0)
    }

    fn bytes(self) -> [u8; 8] {
        let [offset_low, offset_high] = self.offset.to_le_bytes();
        let [a, b, c, d] = self.immediate.to_le_bytes();
        [self.opcode, self.source << 4 | self.destination & 0xf, offset_low, offset_high, a, b, c, d]
    }
}

/// An error with what caused it: the loader's own words often stand in the second one.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!(Instruction::set(3, -2).bytes(), [0xb7, 0x03, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(Instruction::load_word(2, 1, 4).bytes(), [0x61, 0x12, 4, 0, 0, 0, 0, 0]);
        assert_eq!(Instruction::skip_if_above(4, 3, 0x102).bytes(), [0x2d, 0x34, 2, 1, 0, 0, 0, 0]);
    }
}
