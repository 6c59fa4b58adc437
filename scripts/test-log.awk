# Reads what `cargo test -- --show-output` prints. Without `count`: passes it on, of the passing tests' own output only the reasons
# for skipping. With `count`: prints `N passed, N failed, N skipped`, where `code` is cargo's exit code.

/^successes:$/           { quiet = 1 }
/^failures:$/            { quiet = 0 }
/^---- .* stdout ----$/  { test = quiet ? $2 : ""; counted = 0 }
/^test result: /         { quiet = 0; test = ""; passed += $4; failed += $6; ignored += $8 }
test && /^skipped: / {
    if (!counted++) skipped++
    if (!count) print test ": " $0
    next
}
!count && !quiet { print; fflush() }

END {
    if (count) {
        # A test program that crashed leaves no result, and one that did not compile neither.
        if (code && !failed) failed = 1
        printf "%d passed, %d failed, %d skipped\n", passed - skipped, failed, skipped + ignored
    }
}
