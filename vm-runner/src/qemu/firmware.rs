//! Where distributions put UEFI firmware.
//!
//! Source: Debian's file lists of `ovmf` and `qemu-efi-aarch64`, Fedora's of `edk2-ovmf`.

use std::path::{Path, PathBuf};

use appliance::Arch;

use crate::engine::SecureBoot;

/// Firmware as installed: files that are never written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UefiFirmware {
    /// The code.
    pub code: PathBuf,
    /// Variables of a machine that has never been started; to be copied for each machine.
    pub variables_template: PathBuf,
}

/// No UEFI firmware is installed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("UEFI firmware for {} is not installed; Debian and Ubuntu have it in the package {package}", arch.as_str())]
pub struct FirmwareMissing {
    /// For which processors.
    pub arch: Arch,
    /// The Debian package that has it.
    pub package: &'static str,
}

/// Code and variables that belong together, relative to the file system's root.
type Candidate = (&'static str, &'static str);

const X86: &[Candidate] = &[
    ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"),
    ("usr/share/edk2/ovmf/OVMF_CODE.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

const X86_SECURE: &[Candidate] = &[
    ("usr/share/OVMF/OVMF_CODE_4M.ms.fd", "usr/share/OVMF/OVMF_VARS_4M.ms.fd"),
    ("usr/share/OVMF/OVMF_CODE.ms.fd", "usr/share/OVMF/OVMF_VARS.ms.fd"),
    ("usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"),
];

const ARM: &[Candidate] = &[
    ("usr/share/AAVMF/AAVMF_CODE.fd", "usr/share/AAVMF/AAVMF_VARS.fd"),
    ("usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "usr/share/edk2/aarch64/vars-template-pflash.raw"),
];

const ARM_SECURE: &[Candidate] = &[("usr/share/AAVMF/AAVMF_CODE.ms.fd", "usr/share/AAVMF/AAVMF_VARS.ms.fd")];

/// The installed firmware, looked for under `root`, which is `/` outside of tests.
///
/// # Errors
///
/// [`FirmwareMissing`], which names the package.
pub fn find_uefi(root: &Path, arch: Arch, secure_boot: SecureBoot) -> Result<UefiFirmware, FirmwareMissing> {
    let (candidates, package) = match (arch, secure_boot) {
        (Arch::Amd64, SecureBoot::Off) => (X86, "ovmf"),
        (Arch::Amd64, SecureBoot::Enforced) => (X86_SECURE, "ovmf"),
        (Arch::Arm64, SecureBoot::Off) => (ARM, "qemu-efi-aarch64"),
        (Arch::Arm64, SecureBoot::Enforced) => (ARM_SECURE, "qemu-efi-aarch64"),
    };
    candidates
        .iter()
        .map(|(code, variables)| UefiFirmware {
            code: root.join(code),
            variables_template: root.join(variables),
        })
        .find(|firmware| firmware.code.is_file() && firmware.variables_template.is_file())
        .ok_or(FirmwareMissing { arch, package })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_needs_both_of_its_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("usr/share/OVMF");
        std::fs::create_dir_all(&folder).unwrap();
        let find = || find_uefi(root.path(), Arch::Amd64, SecureBoot::Off);

        std::fs::write(folder.join("OVMF_CODE_4M.fd"), "").unwrap();
        let missing = find().unwrap_err();
        assert_eq!(
            missing.to_string(),
            "UEFI firmware for amd64 is not installed; Debian and Ubuntu have it in the package ovmf"
        );
        std::fs::write(folder.join("OVMF_VARS_4M.fd"), "").unwrap();
        assert_eq!(find().unwrap().variables_template, folder.join("OVMF_VARS_4M.fd"));
        assert!(find_uefi(root.path(), Arch::Amd64, SecureBoot::Enforced).is_err());
    }
}
