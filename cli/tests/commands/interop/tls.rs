//! A registry that speaks TLS, whose authority no program knows until it is told.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::images::{files, write_context};
use super::machine::{Machine, NAME};
use crate::support::disks::noise;
use crate::support::registry::Registry;
use crate::support::source::author_in;
use crate::support::{Host, installed};

/// A registry with TLS, known as `registry.example`.
#[derive(Debug)]
struct WithTls {
    _registry: Registry,
    _host: Host,
    /// Where it is reached, as in references.
    address: String,
    /// The certificate of the authority.
    authority: String,
}

impl WithTls {
    fn start() -> Self {
        let mut params = CertificateParams::default();
        // One name for both would make the registry's certificate look as if it had signed itself.
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([NAME.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();

        let host = Host::new();
        fs::write(host.folder().join("tls.crt"), certificate).unwrap();
        fs::write(host.folder().join("tls.key"), key.serialize_pem()).unwrap();
        let options = ["--tls-certificate", "tls.crt", "--tls-key", "tls.key"];
        let registry = Registry::start_with(&host, &options);
        let port = registry.address.rsplit_once(':').unwrap().1;
        let address = format!("{NAME}:{port}");
        Self { _registry: registry, _host: host, address, authority }
    }
}

#[test]
fn who_knows_the_authority_of_a_registry_trusts_it_and_nobody_else_does() {
    const PROGRAMS: &[&str] = &["podman", "buildah", "skopeo"];
    let (Some(here), Some(there)) = (Machine::with(PROGRAMS), Machine::with(PROGRAMS)) else { return };
    let registry = WithTls::start();
    let address = &registry.address;
    let one = format!("{address}/team/app:1");
    write_context(&here, 1);
    here.ok("buildah build -q --layers -t localhost/built context");
    let unknown = "certificate signed by unknown authority";
    here.fails(&format!("podman push -q localhost/built docker://{one}"), unknown);
    here.fails(&format!("skopeo copy -q containers-storage:localhost/built docker://{one}"), unknown);

    // For one registry, in the folder where these programs look.
    here.configure(&format!("certs.d/{address}/ca.crt"), &registry.authority);
    here.ok(&format!("podman push -q localhost/built docker://{one}"));
    here.ok(&format!("buildah push -q localhost/built docker://{address}/team/app:2"));
    let digest = here.ok(&format!("skopeo inspect --format {{{{.Digest}}}} docker://{one}"));

    // For one command, in a folder of its own; or not at all.
    there.fails(&format!("podman pull -q {one}"), unknown);
    fs::create_dir(there.folder().join("known")).unwrap();
    fs::write(there.folder().join("known/ca.crt"), &registry.authority).unwrap();
    for options in ["--cert-dir known", "--tls-verify=false"] {
        let id = there.ok(&format!("podman pull -q {options} {one}"));
        assert!(there.files_of_image(&id) == files(1));
        there.ok("podman rmi --all --force");
    }

    // For the whole machine.
    there.trust(&registry.authority);
    let by_digest = format!("{address}/team/app@{digest}");
    let id = there.ok(&format!("buildah pull -q {by_digest}"));
    assert!(there.files_of_image(&id) == files(1));
    there.ok(&format!("skopeo copy -q docker://{by_digest} docker://{address}/team/copy:1"));
}

#[test]
fn hull_and_curl_trust_what_the_machine_trusts() {
    let Some(machine) = Machine::with(&["curl"]) else { return };
    if !installed(&["/etc/ssl/certs"]) {
        return;
    }
    let registry = WithTls::start();
    let reference = format!("{}/team/web:1", registry.address);
    author_in(machine.folder(), "a", &noise(1, 1 << 20));
    machine.ok(&format!("hull pack a -t {reference}"));
    machine.fails(&format!("hull push {reference}"), "certificate");
    machine.fails(&format!("curl -sSf https://{}/v2/", registry.address), "certificate");
    fs::write(machine.folder().join("ca.crt"), &registry.authority).unwrap();
    machine.ok(&format!("curl -sSf --cacert ca.crt https://{}/v2/", registry.address));

    machine.trust(&registry.authority);
    machine.ok(&format!("curl -sSf https://{}/v2/", registry.address));
    let digest = machine.ok(&format!("hull push {reference}"));
    let Some(other) = Machine::with(&[]) else { return };
    other.trust(&registry.authority);
    assert_eq!(other.ok(&format!("hull pull {reference}")), digest);
}
