# Reads the output of `cargo test --no-fail-fast -- --show-output` for tests/run: shows the
# output of test binaries that failed, then the skipped tests, then the sums.
#
# Variables: status, the exit code of cargo; left, a file that lists what the tests left
# behind; limit, the seconds after which the run was ended.
#
# A test is skipped when libtest ignored it, or when it passed and printed a line
# "SKIP: why" or "SKIP: name: why". libtest puts such lines below "---- name stdout ----"; from
# a test in a process of its own they come anywhere, and then count by their text.

function end_binary() {
    # A binary that was killed or crashed has no result line.
    if (binary != "" && !has_result) {
        failed++
        failed_here = 1
        block = block "FAILED: did not finish (crash, or time limit)\n"
    }
    if (failed_here)
        printf "%s", block
    block = ""
    has_result = failed_here = 0
    test = ""
    section = ""
}

function skip(name, why,    key) {
    key = binary SUBSEP (name != "" ? name : why)
    if (key in seen)
        return
    seen[key] = 1
    skips[++skipped] = (name != "" ? name ": " : "") why
    return
}

# Lines of cargo that begin a binary's output; only documentation tests have their own words.
/^     Running / || /^   Doc-tests / {
    end_binary()
    binary = $0
    sub(/^ *(Running|Doc-tests) /, "", binary)
    sub(/ \(.*\)$/, "", binary)
}

{ block = block $0 "\n" }

/^successes:$/ { section = "successes"; test = "" }
/^failures:$/ { section = "failures"; test = "" }

/^---- .* stdout ----$/ {
    test = $0
    sub(/^---- /, "", test)
    sub(/ stdout ----$/, "", test)
}

/SKIP: / && section != "failures" {
    why = substr($0, index($0, "SKIP: ") + 6)
    if (test != "") {
        # The name is known from the heading; what the line says of it may go.
        at = index(why, test ": ")
        if (at > 0)
            why = substr(why, at + length(test) + 2)
    }
    before = skipped
    skip(test, why)
    if (skipped > before)
        soft++
}

/^test .* \.\.\. ignored/ {
    name = $2
    why = $0
    if (!sub(/.*\.\.\. ignored, /, "", why))
        why = "ignored"
    skip(name, why)
}

/^test result: / {
    has_result = 1
    test = ""
    section = ""
    passed += $4
    failed += $6
    if ($6 > 0)
        failed_here = 1
}

END {
    end_binary()
    if (status == 124 || status == 137)
        printf "FAILED: the run was ended after %d s\n", limit
    if (status != 0 && failed == 0) {
        # Nothing that a binary said: it did not compile, or cargo itself failed.
        failed = 1
        while ((getline line < FILENAME) > 0)
            print line
    }
    while ((getline line < left) > 0) {
        if (!leaks++)
            print "left behind:"
        print "  " line
    }
    if (leaks)
        failed++
    for (i = 1; i <= skipped; i++)
        print "skipped: " skips[i]
    printf "%d passed, %d failed, %d skipped\n", passed - soft, failed, skipped
    exit failed > 0
}
