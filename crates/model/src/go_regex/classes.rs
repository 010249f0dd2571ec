//! Classes of characters, by the names that Go knows.

use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

/// Pairs of first and last characters.
pub(super) type Pairs = [(char, char)];

pub(super) const DIGIT: &Pairs = &[('0', '9')];
/// Without the vertical tab, unlike `[[:space:]]`.
pub(super) const SPACE: &Pairs = &[('\t', '\n'), ('\x0c', '\r'), (' ', ' ')];
pub(super) const WORD: &Pairs = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];

/// What stands between `[:` and `:]`, without the `^`.
pub(super) fn posix(name: &str) -> Option<&'static Pairs> {
    Some(match name {
        "alnum" => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        "alpha" => &[('A', 'Z'), ('a', 'z')],
        "ascii" => &[('\0', '\x7f')],
        "blank" => &[('\t', '\t'), (' ', ' ')],
        "cntrl" => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        "digit" => DIGIT,
        "graph" => &[('!', '~')],
        "lower" => &[('a', 'z')],
        "print" => &[(' ', '~')],
        "punct" => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        "space" => &[('\t', '\r'), (' ', ' ')],
        "upper" => &[('A', 'Z')],
        "word" => WORD,
        "xdigit" => &[('0', '9'), ('A', 'F'), ('a', 'f')],
        _ => return None,
    })
}

pub(super) fn of_pairs(pairs: &Pairs) -> ClassUnicode {
    ClassUnicode::new(pairs.iter().map(|&(first, last)| ClassUnicodeRange::new(first, last)))
}

pub(super) fn pairs(class: &ClassUnicode) -> impl Iterator<Item = (char, char)> + '_ {
    class.ranges().iter().map(|range| (range.start(), range.end()))
}

/// `\p{name}` of matchers: `Any`, or a category or script by its one name.
pub(super) fn unicode_exactly(name: &str) -> Option<ClassUnicode> {
    if name == "Any" {
        return Some(of_pairs(&[('\0', char::MAX)]));
    }
    let is_one_of = |names: &str| names.split(' ').any(|known| known == name);
    if is_one_of(CATEGORIES) {
        return property("gc", name);
    }
    is_one_of(SCRIPTS).then(|| property("sc", name)).flatten()
}

/// `\p{name}` of Go since 1.25: case, blanks, hyphens and underscores do not matter, and categories have their long names too. Scripts whose name
/// has an underscore or a capital within are unknown to it.
pub(super) fn unicode_loosely(name: &str) -> Option<ClassUnicode> {
    let mut canonical: String = name.chars().filter(|c| !"_- ".contains(*c)).collect();
    canonical.make_ascii_lowercase();
    if let Some(first) = canonical.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    match canonical.as_str() {
        "Assigned" => {
            let mut class = property("gc", "Cn")?;
            class.negate();
            Some(class)
        }
        "Ascii" => Some(of_pairs(&[('\0', '\x7f')])),
        // An `is` before a name is regex-syntax' own.
        known => unicode_exactly(known).or_else(|| {
            let is_name = known.bytes().all(|byte| byte.is_ascii_alphanumeric()) && !known.starts_with("Is");
            is_name.then(|| property("gc", known)).flatten()
        }),
    }
}

fn property(of: &str, name: &str) -> Option<ClassUnicode> {
    if of == "gc" && ["Cs", "Surrogate"].contains(&name) {
        // No text has any, and regex-syntax no such class.
        return Some(ClassUnicode::empty());
    }
    match regex_syntax::parse(&format!("\\p{{{of}={name}}}")).ok()?.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some(class),
        // Of one character only.
        HirKind::Literal(literal) => {
            let c = std::str::from_utf8(&literal.0).ok()?.chars().next()?;
            Some(of_pairs(&[(c, c)]))
        }
        _ => None,
    }
}

const CATEGORIES: &str = "\
    C Cc Cf Cn Co Cs L LC Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl \
    Zp Zs";

const SCRIPTS: &str = "\
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak Bengali \
    Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian Caucasian_Albanian \
    Chakma Cham Cherokee Chorasmian Common Coptic Cuneiform Cypriot Cypro_Minoan Cyrillic Deseret \
    Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic Georgian \
    Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Han Hangul Hanifi_Rohingya Hanunoo \
    Hatran Hebrew Hiragana Imperial_Aramaic Inherited Inscriptional_Pahlavi Inscriptional_Parthian \
    Javanese Kaithi Kannada Katakana Kawi Kayah_Li Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi \
    Lao Latin Lepcha Limbu Linear_A Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic \
    Manichaean Marchen Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive \
    Meroitic_Hieroglyphs Miao Modi Mongolian Mro Multani Myanmar Nabataean Nag_Mundari Nandinagari \
    New_Tai_Lue Newa Nko Nushu Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic \
    Old_North_Arabian Old_Permic Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Old_Uyghur Oriya \
    Osage Osmanya Pahawh_Hmong Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic \
    Samaritan Saurashtra Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo \
    Sundanese Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangsa Tangut \
    Telugu Thaana Thai Tibetan Tifinagh Tirhuta Toto Ugaritic Vai Vithkuqi Wancho Warang_Citi Yezidi Yi \
    Zanabazar_Square";
