//! Names of an x86 CPU's flags by their bits.
//!
//! QEMU tells all bits of CPUID in one answer, `feature-words`, but without names; each flag by its
//! name takes a command of its own, some 350 in all and 0.1 s before the source has even connected.
//! So flags whose bits are known here are read from the words. Any other is asked by its name, so
//! that a flag missing here costs a command and is compared all the same.
//!
//! Bits: Intel's manual, volume 2, CPUID; AMD's, volume 3, appendix E. Names: `qemu-system-x86_64
//! -cpu help`; behind `/`, other names of the same bit.

use serde_json::Value;

/// Leaf and subleaf of CPUID, and the register in which it answers.
type Word = (u64, u64, &'static str);

/// The names of each word's bits, from bit 0 on; `-` for a bit that has none.
const WORDS: [(Word, &str); 25] = [
    (
        (0x1, 0, "ECX"),
        "pni/sse3 pclmuldq/pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cid - fma \
         cx16 xtpr pdcm - pcid dca sse4-1 sse4-2 x2apic movbe popcnt tsc-deadline aes xsave - \
         avx f16c rdrand hypervisor",
    ),
    (
        (0x1, 0, "EDX"),
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush \
         - ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    ),
    ((0x6, 0, "EAX"), "- - arat"),
    (
        (0x7, 0, "EBX"),
        "fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm - \
         zero-fcs-fds mpx - avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt \
         clwb intel-pt avx512pf avx512er avx512cd sha-ni avx512bw avx512vl",
    ),
    (
        (0x7, 0, "ECX"),
        "- avx512vbmi umip pku - waitpkg avx512vbmi2 - gfni vaes vpclmulqdq avx512vnni \
         avx512bitalg - avx512-vpopcntdq - la57 - - - - - rdpid - bus-lock-detect cldemote - \
         movdiri movdir64b - sgxlc pks",
    ),
    (
        (0x7, 0, "EDX"),
        "- - avx512-4vnniw avx512-4fmaps fsrm - - - avx512-vp2intersect - md-clear - - - \
         serialize - tsx-ldtrk - - arch-lbr - - amx-bf16 avx512-fp16 amx-tile amx-int8 \
         spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd",
    ),
    (
        (0x7, 1, "EAX"),
        "sha512 sm3 sm4 - avx-vnni avx512-bf16 - cmpccxadd - - fzrm fsrs fsrc - - - - fred \
         lkgs wrmsrns - amx-fp16 - avx-ifma - - lam",
    ),
    (
        (0x7, 1, "EDX"),
        "- - - - avx-vnni-int8 avx-ne-convert - - amx-complex - avx-vnni-int16 - - - \
         prefetchiti - - - - avx10",
    ),
    (
        (0x7, 2, "EDX"),
        "intel-psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no",
    ),
    ((0xd, 1, "EAX"), "xsaveopt xsavec xgetbv1 xsaves xfd"),
    ((0x12, 0, "EAX"), "sgx1 sgx2 - - - - - - - - - sgx-edeccssa"),
    ((0x12, 0, "EBX"), "sgx-exinfo"),
    (
        (0x12, 1, "EAX"),
        "- sgx-debug sgx-mode64 - sgx-provisionkey sgx-tokenkey - sgx-kss - - sgx-aex-notify",
    ),
    (
        (0x14, 0, "ECX"),
        "- - - - - - - - - - - - - - - - - - - - - - - - - - - - - - - intel-pt-lip",
    ),
    (
        (0x24, 0, "EBX"),
        "- - - - - - - - - - - - - - - - avx10-128 avx10-256 avx10-512",
    ),
    ((0x4000_0001, 0, "EDX"), "kvm-hint-dedicated"),
    (
        (0x8000_0001, 0, "ECX"),
        "lahf-lm cmp-legacy svm extapic cr8legacy abm sse4a misalignsse 3dnowprefetch osvw \
         ibs xop skinit wdt - lwp fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb",
    ),
    (
        (0x8000_0001, 0, "EDX"),
        "- - - - - - - - - - - syscall - - - - - - - - nx/xd - mmxext - - ffxsr/fxsr-opt \
         pdpe1gb rdtscp - i64/lm 3dnowext 3dnow",
    ),
    ((0x8000_0007, 0, "EBX"), "overflow-recov succor"),
    ((0x8000_0007, 0, "EDX"), "- - - - - - - - invtsc"),
    (
        (0x8000_0008, 0, "EBX"),
        "clzero - xsaveerptr - - - - - - wbnoinvd - - ibpb - ibrs amd-stibp - stibp-always-on \
         - - - - - - amd-ssbd virt-ssbd amd-no-ssb - amd-psfd",
    ),
    (
        (0x8000_000a, 0, "EDX"),
        "npt lbrv svm-lock nrip-save tsc-scale vmcb-clean flushbyasid decodeassists - - \
         pause-filter - pfthreshold avic - v-vmsave-vmload vgif - - - - - - - - vnmi - - \
         svme-addr-chk",
    ),
    (
        (0x8000_0021, 0, "EAX"),
        "no-nested-data-bp - lfence-always-serializing - - - null-sel-clr-base - auto-ibrs - \
         - - - - - - - - - - - - - - eraps - - sbpb ibpb-brtype srso-no srso-user-kernel-no",
    ),
    ((0x8000_0022, 0, "EAX"), "perfmon-v2"),
    (
        (0xc000_0001, 0, "EDX"),
        "- - xstore xstore-en - - xcrypt xcrypt-en ace2 ace2-en phe phe-en pmm pmm-en",
    ),
];

/// Flags in the register IA32_ARCH_CAPABILITIES, which the guest has if CPUID says so.
const ARCH_CAPABILITIES: [&str; 18] = [
    "bhi-no",
    "fb-clear",
    "fbsdp-no",
    "gds-no",
    "ibrs-all",
    "mds-no",
    "pbrsb-no",
    "psdp-no",
    "pschange-mc-no",
    "rdctl-no",
    "rfds-clear",
    "rfds-no",
    "rsba",
    "sbdr-ssdp-no",
    "skip-l1dfl-vmentry",
    "ssb-no",
    "taa-no",
    "tsx-ctrl",
];

/// The flag without which the guest cannot see `name`.
pub(super) fn announced_by(name: &str) -> Option<&'static str> {
    if name.starts_with("vmx-") {
        Some("vmx")
    } else if ARCH_CAPABILITIES.contains(&name) {
        Some("arch-capabilities")
    } else if name == "split-lock-detect" {
        Some("core-capability")
    } else if name == "full-width-write" {
        Some("pdcm")
    } else {
        None
    }
}

/// The CPU's bits, as QEMU tells them.
pub(super) struct FeatureWords<'a>(Vec<(&'a Value, u32)>);

impl<'a> FeatureWords<'a> {
    /// From the answer to `qom-get` of `feature-words`.
    pub(super) fn new(answer: &'a Value) -> Self {
        let words = answer.as_array().into_iter().flatten();
        let bits = |word: &Value| u32::try_from(word["features"].as_u64()?).ok();
        Self(words.filter_map(|word| Some((word, bits(word)?))).collect())
    }

    /// Whether the CPU has the flag `name`; `None` if its bit, or the word of it, is not known.
    pub(super) fn has(&self, name: &str) -> Option<bool> {
        let (word, bit) = bit_of(name)?;
        let is = |value: &Value| {
            value["cpuid-input-eax"].as_u64() == Some(word.0)
                && value["cpuid-input-ecx"].as_u64().unwrap_or(0) == word.1
                && value["cpuid-register"].as_str() == Some(word.2)
        };
        let (_, bits) = self.0.iter().find(|(value, _)| is(value))?;
        Some(bits >> bit & 1 == 1)
    }
}

/// The word and the bit of a flag.
fn bit_of(name: &str) -> Option<(Word, usize)> {
    WORDS.iter().find_map(|(word, names)| {
        let bit = names
            .split(' ')
            .position(|names| names.split('/').any(|other| other == name))?;
        Some((*word, bit))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bits_have_their_names() {
        let answer = json!([
            { "cpuid-register": "EDX", "cpuid-input-eax": 1, "features": 1 << 25 },
            { "cpuid-register": "EBX", "cpuid-input-eax": 7, "cpuid-input-ecx": 0,
              "features": 1_u32 << 5 | 1 << 31 },
        ]);
        let words = FeatureWords::new(&answer);
        for (name, has) in [
            ("sse", Some(true)),
            ("fpu", Some(false)),
            ("avx2", Some(true)),
        ] {
            assert_eq!(words.has(name), has, "{name}");
        }
        assert_eq!(words.has("avx512vl"), Some(true));
        assert_eq!(words.has("la57"), None, "its word was not told");
        assert_eq!(words.has("l3-cache"), None, "no bit of CPUID");
        assert_eq!(FeatureWords::new(&Value::Null).has("sse"), None);
    }

    #[test]
    fn no_word_has_more_than_32_bits_and_no_name_has_two() {
        let mut seen = std::collections::HashSet::new();
        for (word, names) in WORDS {
            assert!(names.split(' ').count() <= 32, "{word:x?}");
            for name in names.split([' ', '/']).filter(|name| *name != "-") {
                assert!(seen.insert(name), "{name}");
            }
        }
    }
}
