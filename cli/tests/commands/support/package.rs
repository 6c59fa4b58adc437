//! What other platforms pack machines in: tar archives, and OVF descriptors for them.

use std::fs;
use std::path::Path;

use appliance::Digest;

/// One member of an archive: name, type, link target, content.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) kind: u8,
    pub(crate) link: String,
    pub(crate) content: Vec<u8>,
}

/// A regular file.
pub(crate) fn file(name: &str, content: impl Into<Vec<u8>>) -> Member {
    Member { name: name.to_owned(), kind: b'0', link: String::new(), content: content.into() }
}

/// A symbolic link.
pub(crate) fn link(name: &str, to: &str) -> Member {
    Member { name: name.to_owned(), kind: b'2', link: to.to_owned(), content: Vec::new() }
}

/// A tar archive, as POSIX has it.
pub(crate) fn tar(members: &[Member]) -> Vec<u8> {
    let mut archive = Vec::new();
    for Member { name, kind, link, content } in members {
        let mut header = [0; 512];
        let mut put = |at: usize, text: &[u8]| header[at..][..text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, b"0000644\x000000000\x000000000\0");
        put(124, format!("{:011o}\x0000000000000\0        ", content.len()).as_bytes());
        put(156, &[*kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// `members` and a manifest of them, as an OVA.
pub(crate) fn ova(members: &[Member]) -> Vec<u8> {
    let mut members = members.to_vec();
    let lines = members
        .iter()
        .map(|member| format!("SHA256({})= {}\n", member.name, Digest::sha256(&member.content).hex()));
    let manifest: String = lines.collect();
    members.insert(1, file("web.mf", manifest));
    tar(&members)
}

/// A descriptor of one machine as VMware writes it: two disks on SCSI in the wrong order, one of them empty, a CD-ROM
/// drive and a card. `more` stands in the envelope.
pub(crate) fn descriptor(more: &str) -> String {
    let item = |content: &str| format!("<Item>{content}</Item>");
    let items = [
        "<rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType>\
         <rasd:VirtualQuantity>4</rasd:VirtualQuantity>",
        "<rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID>\
         <rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>2048</rasd:VirtualQuantity>",
        "<rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID>\
         <rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType>",
        "<rasd:AddressOnParent>1</rasd:AddressOnParent><rasd:ElementName>Hard disk 2</rasd:ElementName>\
         <rasd:HostResource>ovf:/disk/vmdisk2</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID>\
         <rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType>",
        "<rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>Hard disk 1</rasd:ElementName>\
         <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>5</rasd:InstanceID>\
         <rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType>",
        "<rasd:AddressOnParent>2</rasd:AddressOnParent><rasd:ElementName>Hard disk 3</rasd:ElementName>\
         <rasd:HostResource>ovf:/disk/vmdisk3</rasd:HostResource><rasd:InstanceID>6</rasd:InstanceID>\
         <rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType>",
        "<rasd:ElementName>CD/DVD drive 1</rasd:ElementName><rasd:InstanceID>7</rasd:InstanceID>\
         <rasd:ResourceType>15</rasd:ResourceType>",
        "<rasd:AddressOnParent>7</rasd:AddressOnParent><rasd:Connection>VM Network</rasd:Connection>\
         <rasd:ElementName>Network adapter 1</rasd:ElementName><rasd:InstanceID>8</rasd:InstanceID>\
         <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:ResourceType>10</rasd:ResourceType>",
    ];
    let items: String = items.map(item).concat();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\" \
         xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\
         <References><File ovf:id=\"file1\" ovf:href=\"system.vmdk\"/><File ovf:id=\"file2\" ovf:href=\"more.vmdk\"/>\
         </References>\
         <DiskSection><Info>disks</Info>\
         <Disk ovf:diskId=\"vmdisk1\" ovf:fileRef=\"file1\" ovf:capacity=\"8\" ovf:capacityAllocationUnits=\"byte * 2^20\"/>\
         <Disk ovf:diskId=\"vmdisk2\" ovf:fileRef=\"file2\" ovf:capacity=\"8\" ovf:capacityAllocationUnits=\"byte * 2^20\"/>\
         <Disk ovf:diskId=\"vmdisk3\" ovf:capacity=\"1\" ovf:capacityAllocationUnits=\"byte * 2^30\"/>\
         </DiskSection>\
         <NetworkSection><Info>networks</Info><Network ovf:name=\"VM Network\"/></NetworkSection>{more}\
         <VirtualSystem ovf:id=\"vm\"><Info>a machine</Info><Name>Web Shop</Name>\
         <OperatingSystemSection ovf:id=\"96\" vmw:osType=\"debian12_64Guest\"><Info>guest</Info></OperatingSystemSection>\
         <ProductSection><Info>product</Info><Product>Shop front end</Product><Version>1.4</Version>\
         <Property ovf:key=\"hostname\" ovf:type=\"string\" ovf:value=\"shop\" ovf:userConfigurable=\"true\"/>\
         </ProductSection>\
         <EulaSection><Info>licence</Info><License>Be kind.</License></EulaSection>\
         <VirtualHardwareSection><Info>hardware</Info>{items}\
         <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"efi\"/>\
         <vmw:Config ovf:required=\"false\" vmw:key=\"bootOptions.efiSecureBootEnabled\" vmw:value=\"true\"/>\
         </VirtualHardwareSection></VirtualSystem></Envelope>"
    )
}

/// The members of an OVA with [`descriptor`] and two disks, which are `first` and `second`.
pub(crate) fn members(more: &str, first: &Path, second: &Path) -> Vec<Member> {
    vec![
        file("web.ovf", descriptor(more)),
        file("system.vmdk", fs::read(first).unwrap()),
        file("more.vmdk", fs::read(second).unwrap()),
    ]
}
