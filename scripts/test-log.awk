# Reads what `cargo test -- --show-output` prints. Without `count`: passes it on, of the passing tests' own output only the reasons
# for skipping. With `count`: prints why tests were skipped and `N passed, N failed, N skipped`, where `code` is cargo's exit code
# and `user` the id of the user who ran it.

/^successes:$/           { quiet = 1 }
/^failures:$/            { quiet = 0 }
/^---- .* stdout ----$/  { test = quiet ? $2 : ""; counted = 0 }
/^test result: /         { quiet = 0; test = ""; passed += $4; failed += $6; ignored += $8 }
test && /^skipped: / {
    if (!counted++) {
        skipped++
        reasons[substr($0, length("skipped: ") + 1)]++
    }
    if (!count) print test ": " $0
    next
}
!count && !quiet { print; fflush() }

END {
    if (count) {
        # A test program that crashed leaves no result, and one that did not compile neither.
        if (code && !failed) failed = 1
        if (ignored) reasons["marked #[ignore]"] = ignored
        if (skipped + ignored) explain()
        printf "%d passed, %d failed, %d skipped\n", passed - skipped, failed, skipped + ignored
    }
}

function explain(    reason) {
    printf "\nskipped, by reason:\n"
    fflush()
    for (reason in reasons) printf "%6d  %s\n", reasons[reason], reason | "sort -k1,1nr -k2"
    close("sort -k1,1nr -k2")
    if (user) print "Most of what boots a machine or makes a network needs root, and this is not root: run `make test` as root to test it."
    print ""
}
