//! The probe's guest: a program of 65 bytes that does what every operating system does.
//!
//! It takes a breakpoint through its own interrupt table and returns from it, uses an SSE register,
//! goes to user mode and comes back by `syscall`, counts down from a million, writes `K` to a port
//! and halts. An interpreter posing as KVM fails at one of the first, or is still counting long
//! after a processor is done.
//!
//! Guest memory, one page of 4 KiB each; addresses are the same before and after translation:
//!
//! ```text
//! 0000  not used        4000  segment descriptors (GDT)      7000  the program
//! 1000  page tables     5000  interrupt descriptors (IDT)    8000  stack, from its end downwards
//! ...   (3 levels)      6000  task state (TSS)
//! ```
//!
//! Source: Intel SDM volume 3A, chapters 3 to 8; AMD APM volume 2, chapters 4, 5, 8 and 12.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

/// A page, aligned as KVM wants memory to be.
#[derive(Clone)]
#[repr(C, align(4096))]
pub(super) struct Page([u8; 4096]);

const PAGES: usize = 9;

const PML4: u64 = 0x1000;
const PAGE_DIRECTORY_POINTERS: u64 = 0x2000;
const PAGE_DIRECTORY: u64 = 0x3000;
const GDT: u64 = 0x4000;
const IDT: u64 = 0x5000;
const TSS: u64 = 0x6000;
const PROGRAM: u64 = 0x7000;
const STACK_END: u64 = 0x9000;

const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const TASK: u16 = 0x28;

/// Where the program takes the breakpoint.
const BREAKPOINT: u64 = PROGRAM + 0x3f;

/// The port it writes to, and what.
pub(super) const PORT: u16 = 0xe9;
pub(super) const GREETING: u8 = b'K';

/// The program, one instruction per line, with the name to give when a guest stops there.
#[rustfmt::skip]
const LISTING: &[(&[u8], &str)] = &[
    (&[0xcc],                         "int3"),                   // 00
    (&[0x0f, 0x57, 0xc0],             "xorps %xmm0, %xmm0"),     // 01
    (&[0xb9, 0x81, 0x00, 0x00, 0xc0], "mov $0xc0000081, %ecx"),  // 04  STAR: selectors for syscall
    (&[0x31, 0xc0],                   "xor %eax, %eax"),         // 09
    (&[0xba, 0x08, 0x00, 0x10, 0x00], "mov $0x100008, %edx"),    // 0b  kernel 08, user from 10
    (&[0x0f, 0x30],                   "wrmsr"),                  // 10
    (&[0xff, 0xc1],                   "inc %ecx"),               // 12  LSTAR: where syscall goes
    (&[0xb8, 0x31, 0x70, 0x00, 0x00], "mov $0x7031, %eax"),      // 14
    (&[0x31, 0xd2],                   "xor %edx, %edx"),         // 19
    (&[0x0f, 0x30],                   "wrmsr"),                  // 1b
    (&[0x6a, 0x1b],                   "push $0x1b"),             // 1d  user data, ring 3
    (&[0x68, 0x00, 0x90, 0x00, 0x00], "push $0x9000"),           // 1f  stack
    (&[0x6a, 0x02],                   "push $0x2"),              // 24  flags
    (&[0x6a, 0x23],                   "push $0x23"),             // 26  user code, ring 3
    (&[0x68, 0x2f, 0x70, 0x00, 0x00], "push $0x702f"),           // 28
    (&[0x48, 0xcf],                   "iretq to ring 3"),        // 2d
    (&[0x0f, 0x05],                   "syscall"),                // 2f  user mode
    (&[0xb9, 0x40, 0x42, 0x0f, 0x00], "mov $1000000, %ecx"),     // 31  back in the kernel
    (&[0xff, 0xc9],                   "dec %ecx"),               // 36
    (&[0x75, 0xfc],                   "jnz"),                    // 38  to 36
    (&[0xb0, 0x4b],                   "mov $'K', %al"),          // 3a
    (&[0xe6, 0xe9],                   "out %al, $0xe9"),         // 3c
    (&[0xf4],                         "hlt"),                    // 3e
    (&[0x48, 0xcf],                   "iretq from int3"),        // 3f
];

/// The guest's memory, ready to run.
pub(super) fn memory() -> Vec<Page> {
    let mut memory = vec![Page([0; 4096]); PAGES];
    let present_writable_user = 0x7;
    let huge_page = 0x80;
    put(&mut memory, PML4, &(PAGE_DIRECTORY_POINTERS | present_writable_user).to_le_bytes());
    put(&mut memory, PAGE_DIRECTORY_POINTERS, &(PAGE_DIRECTORY | present_writable_user).to_le_bytes());
    put(&mut memory, PAGE_DIRECTORY, &(huge_page | present_writable_user).to_le_bytes());
    put(&mut memory, GDT, &descriptors());
    put(&mut memory, IDT + 3 * 16, &interrupt_gate(BREAKPOINT));
    put(&mut memory, TSS + 4, &STACK_END.to_le_bytes()); // RSP0
    put(&mut memory, TSS + 0x66, &0x68_u16.to_le_bytes()); // No I/O bitmap.
    let program: Vec<u8> = LISTING.iter().flat_map(|(bytes, _)| *bytes).copied().collect();
    put(&mut memory, PROGRAM, &program);
    memory
}

/// The instruction at `rip`, or the address where there is none.
pub(super) fn instruction_at(rip: u64) -> String {
    let mut address = PROGRAM;
    for (bytes, name) in LISTING {
        if rip == address {
            return (*name).into();
        }
        address += bytes.len() as u64;
    }
    format!("{rip:#x}")
}

/// Registers at the program's instruction number `first`.
pub(super) fn registers(first: usize) -> kvm_regs {
    let skipped: usize = LISTING[..first].iter().map(|(bytes, _)| bytes.len()).sum();
    kvm_regs { rip: PROGRAM + skipped as u64, rsp: STACK_END, rflags: 0x2, ..Default::default() }
}

/// 64-bit mode with paging and SSE, in ring 0. `reset` is what KVM starts a processor with.
pub(super) fn system_registers(reset: kvm_sregs) -> kvm_sregs {
    let code = segment(KERNEL_CODE, 0xb, 0, 0xfffff);
    let code = kvm_segment { l: 1, g: 1, s: 1, ..code };
    let data = segment(KERNEL_DATA, 0x3, 0, 0xfffff);
    let data = kvm_segment { db: 1, g: 1, s: 1, ..data };
    kvm_sregs {
        cr0: 0x8001_0033, // PG WP NE ET MP PE
        cr3: PML4,
        cr4: 0x620,  // OSXMMEXCPT OSFXSR PAE
        efer: 0x501, // LMA LME SCE
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: segment(TASK, 0xb, TSS, 0x67),
        gdt: kvm_dtable { base: GDT, limit: descriptors().len() as u16 - 1, ..Default::default() },
        idt: kvm_dtable { base: IDT, limit: 0xfff, ..Default::default() },
        ..reset
    }
}

fn segment(selector: u16, kind: u8, base: u64, limit: u32) -> kvm_segment {
    kvm_segment { selector, type_: kind, base, limit, present: 1, ..Default::default() }
}

/// The GDT: nothing, kernel code and data, user data and code, and the task state, which takes two.
fn descriptors() -> Vec<u8> {
    let task = 0x0000_8b00_0000_0067 | (TSS << 16);
    [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff, task, 0]
        .iter()
        .flat_map(|descriptor: &u64| descriptor.to_le_bytes())
        .collect()
}

/// An entry of the IDT that leads to `handler`, which lies below 64 KiB.
fn interrupt_gate(handler: u64) -> [u8; 16] {
    let present_interrupt_gate = 0x8e00_u128;
    let gate = u128::from(handler) | u128::from(KERNEL_CODE) << 16 | present_interrupt_gate << 32;
    gate.to_le_bytes()
}

fn put(memory: &mut [Page], address: u64, bytes: &[u8]) {
    let (page, offset) = (address as usize / 4096, address as usize % 4096);
    memory[page].0[offset..][..bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u64 = PROGRAM + 0x2f;
    const BACK: u64 = PROGRAM + 0x31;

    #[test]
    fn the_listing_and_the_addresses_in_it_agree() {
        assert_eq!(instruction_at(PROGRAM), "int3");
        assert_eq!(instruction_at(USER), "syscall");
        assert_eq!(instruction_at(BACK), "mov $1000000, %ecx");
        assert_eq!(instruction_at(BREAKPOINT), "iretq from int3");
        assert_eq!(instruction_at(0), "0x0");
        let immediate = |address: u64| (address as u32).to_le_bytes();
        let operand = |index: usize| LISTING[index].0[1..].to_vec();
        assert_eq!(operand(7), immediate(BACK));
        assert_eq!(operand(14), immediate(USER));
        assert_eq!(instruction_at(registers(17).rip), "mov $1000000, %ecx");
        assert_eq!(operand(17), 1_000_000_u32.to_le_bytes());
    }
}
