//! KubeVirt: the documents hold against KubeVirt's and Kubernetes' schemas, the NetworkPolicy against packets.

use std::process::Command;

use ipnet::IpNet;
use packer::export::{Limits, Plan, kubevirt};
use serde_json::Value;

use super::packets::{self, Packet, Way};
use super::{Author, DEMANDING, PLAIN, check_losses, document, documents, schemas, written};

fn plan(hull_toml: &str, limits: Limits) -> Plan {
    let image = |disk: &str| format!("registry.example/{disk}:1");
    kubevirt(&Author::of(hull_toml).subject(limits), &image, "1").unwrap()
}

/// The plan's documents as strict readers understand them, by their file names; `None` where there is no validator.
#[track_caller]
fn validated(plan: &Plan) -> Option<Value> {
    let python = schemas("python/bin/python")?;
    let (_folder, paths) = written(&documents(plan, "yaml"));
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut command = Command::new(python);
    command
        .arg(tests.join("export/validate-kubernetes"))
        .arg(tests.join("fixtures/kubevirt/virtual-machine.json"));
    let output = command.args(paths).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// True if the NetworkPolicy lets the first packet of a connection pass, between the machine and what is no pod.
fn passes(policy: &Value, packet: &Packet) -> bool {
    let (rules, peers) = match packet.way {
        Way::In => ("ingress", "from"),
        Way::Out => ("egress", "to"),
    };
    let net = |value: &Value| value.as_str().unwrap().parse::<IpNet>().unwrap();
    let is_peer = |peer: &Value| {
        let block = &peer["ipBlock"];
        let except = block["except"].as_array().into_iter().flatten();
        block.is_object()
            && net(&block["cidr"]).contains(&packet.peer)
            && !except.map(net).any(|hole| hole.contains(&packet.peer))
    };
    let is_port = |port: &Value| {
        let first = port["port"].as_u64().unwrap();
        let last = port["endPort"].as_u64().unwrap_or(first);
        port["protocol"] == packet.proto.to_uppercase() && (first..=last).contains(&packet.port.into())
    };
    let spec = &policy["spec"];
    assert_eq!(spec["policyTypes"], serde_json::json!(["Ingress", "Egress"]));
    spec[rules].as_array().unwrap().iter().any(|rule| {
        // An empty list means everybody.
        let (peers, ports) = (rule[peers].as_array().unwrap(), rule["ports"].as_array().unwrap());
        assert!(!peers.is_empty() && !ports.is_empty(), "{rule}");
        peers.iter().any(is_peer) && ports.iter().any(is_port)
    })
}

#[test]
fn a_plain_appliance_is_expressed_whole() {
    let plan = plan(PLAIN, Limits::Respected);
    check_losses(&plan.report, &[]);
    assert!(!plan.report.notices.is_empty());
    let vm = document(&plan, "vm-shop.yaml");
    for line in [
        "runStrategy: RerunOnFailure",
        "image: \"registry.example/root:1\"",
        "claimName: shop-data",
        "guest: \"1Gi\"",
    ] {
        assert!(vm.contains(line), "{line} is missing\n{vm}");
    }
}

#[test]
fn documents_hold_against_the_published_schemas() {
    for (hull_toml, limits) in
        [(PLAIN, Limits::Respected), (DEMANDING, Limits::Respected), (DEMANDING, Limits::Dropped)]
    {
        let Some(documents) = validated(&plan(hull_toml, limits)) else { return };
        assert!(documents.as_object().unwrap().len() >= 3);
    }
    // Names that YAML would take for something else.
    let Some(documents) = validated(&plan(DEMANDING, Limits::Respected)) else { return };
    let vm = &documents["vm-no.yaml"];
    assert_eq!(vm["metadata"]["labels"]["hullvm.dev/appliance"], "on");
    let spec = &vm["spec"]["template"]["spec"];
    assert_eq!(spec["domain"]["devices"]["disks"][0]["name"], "0755");
    assert_eq!(spec["networks"][0]["name"], "y");
    assert_eq!(spec["readinessProbe"]["httpGet"]["path"], "/healthz?a=b");
    assert_eq!(spec["livenessProbe"]["initialDelaySeconds"], 90);
    assert_eq!(spec["readinessProbe"]["periodSeconds"], 2);
    assert_eq!(documents["vm-null.yaml"]["spec"]["template"]["spec"]["networks"], serde_json::json!([]));
}

#[test]
fn what_passes_is_what_hull_lets_pass() {
    let Some(documents) = validated(&plan(PLAIN, Limits::Respected)) else { return };
    let policy = &documents["network-policy-shop.yaml"];
    for (packet, want) in packets::plain() {
        assert_eq!(passes(policy, &packet), want, "{packet:?}");
    }
    let dns = policy["spec"]["egress"].as_array().unwrap().last().unwrap();
    assert_eq!(dns["to"][0]["podSelector"]["matchLabels"]["k8s-app"], "kube-dns");
}

#[test]
fn what_cannot_be_expressed_is_left_out_and_said() {
    let respected = plan(DEMANDING, Limits::Respected);
    check_losses(
        &respected.report,
        &[
            "- policy.placement wider",
            "- policy.trust wider",
            "no disk.0755.bus other",
            "no disk.0755.mode other",
            "no disk.1e3.bus other",
            "no firewall.dns narrower",
            "no firewall.egress.names.to narrower",
            "no firewall.egress.names.to narrower",
            "no firewall.egress.rated.rate narrower",
            "no firewall.icmp.ping-in narrower",
            "no firewall.icmp.ping-out narrower",
            "no firewall.ingress.published.from narrower",
            "no firewall.ingress.published.log other",
            "no firewall.ingress.published.publish narrower",
            "no firewall.ingress.rated.max-connections narrower",
            "no firewall.ingress.rated.rate narrower",
            "no firewall.limits.egress-mbit wider",
            "no firewall.limits.flows wider",
            "no nic.inside narrower",
            "no nic.y.model other",
            "no policy.lifecycle.max-restarts other",
            "no policy.lifecycle.rollback other",
            "no policy.resources.disk wider",
            "no start-order other",
            "null policy.health.check other",
        ],
    );
    let Some(documents) = validated(&respected) else { return };
    let policy = &documents["network-policy-no.yaml"];
    assert_eq!(policy["spec"]["egress"], serde_json::json!([]));
    for (port, want) in [(80, true), (81, false)] {
        assert_eq!(passes(policy, &Packet::new(Way::In, "tcp", "203.0.113.9", port)), want, "{port}");
    }
    let peers = policy["spec"]["ingress"][0]["from"].as_array().unwrap();
    assert_eq!(peers[2]["podSelector"]["matchLabels"]["hullvm.dev/machine"], "null");
    // A machine that the policy does not list.
    let closed = &documents["network-policy-null.yaml"]["spec"];
    assert_eq!((&closed["ingress"], &closed["egress"]), (&serde_json::json!([]), &serde_json::json!([])));
}

#[test]
fn rules_keep_without_their_limits_only_when_asked_to() {
    let dropped = plan(DEMANDING, Limits::Dropped);
    let lines = super::lines(&dropped.report.losses);
    for line in [
        "no firewall.ingress.rated.rate wider",
        "no firewall.ingress.rated.max-connections wider",
        "no firewall.egress.rated.rate wider",
    ] {
        assert!(lines.contains(&line.to_owned()), "{line} is missing: {lines:?}");
    }
    let Some(documents) = validated(&dropped) else { return };
    let policy = &documents["network-policy-no.yaml"];
    assert!(passes(policy, &Packet::new(Way::In, "tcp", "203.0.113.9", 81)));
    assert!(passes(policy, &Packet::new(Way::Out, "udp", "192.0.2.1", 53)));
}

#[test]
fn names_that_kubernetes_does_not_take_are_refused() {
    let ends_badly = PLAIN.replace("\"shop\"", "\"shop-\"");
    let too_long = format!(
        "[appliance]\nname = \"{}\"\nversion = \"1\"\n[machines.db]\nmemory = \"1GiB\"\n",
        "x".repeat(62)
    );
    for (text, words) in [(ends_badly, "appliance `shop-`"), (too_long, "at most 63 characters")] {
        let author = Author::of(&text);
        let error = kubevirt(&author.subject(Limits::Respected), &str::to_owned, "1").unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
