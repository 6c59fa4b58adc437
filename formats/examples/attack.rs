use std::time::Instant;
fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/status").unwrap();
    let l = s.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    l.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
fn main() {
    let which = std::env::args().nth(1).unwrap();
    let doc = match which.as_str() {
        "kinds" => {
            let w = "a ".repeat(2 << 20);
            format!(
                "<Envelope><VirtualSystem ovf:id=\"a\"><VirtualHardwareSection><System><vssd:VirtualSystemType>{w}</vssd:VirtualSystemType></System></VirtualHardwareSection></VirtualSystem></Envelope>"
            )
        }
        "transport" => {
            let w = "a ".repeat(2 << 20);
            format!(
                "<Envelope><VirtualSystem ovf:id=\"a\"><VirtualHardwareSection transport=\"{}\"/></VirtualSystem></Envelope>",
                &w[..(4 << 20) - 10]
            )
        }
        "more" => {
            let id = "i".repeat(1 << 20);
            let h = "<VirtualHardwareSection/>".repeat(4000);
            format!("<Envelope><VirtualSystem ovf:id=\"{id}\">{h}</VirtualSystem></Envelope>")
        }
        "decl" => {
            let decls: String = (0..31)
                .map(|n| {
                    format!(
                        " xmlns:{}=\"b\"",
                        char::from(b'a' + (n % 26) as u8).to_string().repeat(1 + n / 26)
                    )
                })
                .collect();
            let e = format!("<A{decls}/>");
            let n = (15 << 20) / e.len();
            format!("<Envelope>{}</Envelope>", e.repeat(n))
        }
        "props" => {
            let class = "c".repeat(1 << 20);
            let p = "<Property ovf:key=\"k\"/>".repeat(16000);
            let disks: String =
                (0..4).map(|n| format!("<Disk ovf:diskId=\"d{n}\" ovf:capacity=\"${{x}}\"/>")).collect();
            format!(
                "<Envelope><DiskSection>{disks}</DiskSection><VirtualSystem ovf:id=\"a\"><ProductSection ovf:class=\"{class}\">{p}</ProductSection></VirtualSystem></Envelope>"
            )
        }
        "props2" => {
            let p = "<Property ovf:key=\"k\"/>".repeat(16000);
            let disks: String =
                (0..4000).map(|n| format!("<Disk ovf:diskId=\"d{n}\" ovf:capacity=\"${{x}}\"/>")).collect();
            format!(
                "<Envelope><DiskSection>{disks}</DiskSection><VirtualSystem ovf:id=\"a\"><ProductSection ovf:class=\"c\">{p}</ProductSection></VirtualSystem></Envelope>"
            )
        }
        "sections" => {
            let items: String=(0..4000).map(|n| format!("<Item><rasd:InstanceID>{n}</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>/disk/d{n}</rasd:HostResource></Item>")).collect();
            let disks: String =
                (0..4000).map(|n| format!("<Disk ovf:diskId=\"d{n}\" ovf:capacity=\"1\"/>")).collect();
            format!(
                "<Envelope><DiskSection>{disks}</DiskSection>{}<VirtualSystem ovf:id=\"a\"><VirtualHardwareSection>{items}</VirtualHardwareSection></VirtualSystem></Envelope>",
                "<DiskSection/>".repeat(20000)
            )
        }
        "foreign" => {
            let x = "<x:X>a:b c:d</x:X>".repeat(60000);
            format!("<Envelope xmlns:x=\"x\"><x:Y>{x}</x:Y></Envelope>")
        }
        "text" => {
            let x = "a&amp;".repeat(600_000);
            format!(
                "<Envelope><VirtualSystem ovf:id=\"a\">{}</VirtualSystem></Envelope>",
                format!("<EulaSection><License>{x}</License></EulaSection>").repeat(4)
            )
        }
        "nodes" => format!("<Envelope>{}</Envelope>", "<a b='' c='' d='' e=''/>".repeat(65000)),
        "products" => {
            let one = "<ProductSection/>".repeat(60000);
            format!("<Envelope><VirtualSystem ovf:id=\"a\">{one}</VirtualSystem></Envelope>")
        }
        "open" => format!("<Envelope>{}", "<a>".repeat(70)),
        _ => panic!(),
    };
    let len = doc.len();
    let base = rss();
    let t = Instant::now();
    let r = formats::ovf::parse(doc.as_bytes(), None);
    let e = match &r {
        Ok(d) => format!("ok {} warnings", d.warnings.len()),
        Err(e) => {
            let s = e.to_string();
            s[..s.len().min(200)].to_owned()
        }
    };
    println!("{which}: {len} bytes, {:?}, peak {} MiB (before {base}): {e}", t.elapsed(), rss());
}
