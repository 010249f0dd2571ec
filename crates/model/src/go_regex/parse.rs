//! From Go's syntax to what the regex crate's engine compiles.

use std::mem;

use regex_syntax::hir::{
    Capture, Class, ClassUnicode, ClassUnicodeRange, Dot, Hir, HirKind, Look, Repetition,
};

use super::RegexError;
use super::classes::{self, DIGIT, Pairs, SPACE, WORD};

/// Go's limit of the height of a parsed expression. Groups nest no deeper either, even where they leave no trace.
const MAX_HEIGHT: usize = 1000;
pub(super) const NESTS_TOO_DEEPLY: &str = "expression nests too deeply";
/// Go's limit of how often something is repeated, by all the counts around it together.
const MAX_REPEAT: u32 = 1000;
/// All classes of an expression together have no more ranges: those of `\pL` are 650.
const MAX_RANGES: usize = 1 << 20;

/// Whose reading of a pattern is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// Prometheus' matchers: a dot matches a newline, names of Unicode classes are exact; groups are not kept.
    Matcher,
    /// Go's `regexp.Compile`.
    Compile,
}

pub(super) struct Parsed {
    pub(super) hir: Hir,
    /// The names of the groups, if these are kept.
    pub(super) names: Vec<Option<String>>,
    /// How deep it nests, about.
    pub(super) height: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    fold_case: bool,
    multi_line: bool,
    dot_matches_newline: bool,
    is_lazy: bool,
}

/// Something that may be repeated, or stand in a sequence.
struct Piece {
    hir: Hir,
    shape: Shape,
    /// As Go counts it: sequences in sequences are one, as are alternatives in alternatives.
    height: usize,
    /// How often the counts of repetitions copy what is innermost.
    copies: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Sequence,
    Alternatives,
    Other,
}

impl Piece {
    fn leaf(hir: Hir) -> Self {
        Self { hir, shape: Shape::Other, height: 1, copies: 1 }
    }

    fn of(mut parts: Vec<Self>, shape: Shape) -> Self {
        if parts.len() == 1
            && let Some(only) = parts.pop()
        {
            return only;
        }
        let height = |part: &Self| part.height + usize::from(part.shape != shape);
        let height = parts.iter().map(height).max().unwrap_or(1);
        let copies = parts.iter().map(|part| part.copies).max().unwrap_or(1);
        let hirs = parts.into_iter().map(|part| part.hir).collect();
        let hir = match shape {
            Shape::Alternatives => Hir::alternation(hirs),
            Shape::Sequence | Shape::Other => Hir::concat(hirs),
        };
        match hir.kind() {
            HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) => Self::leaf(hir),
            _ => Self { hir, shape, height, copies },
        }
    }
}

/// A group that is being read; the whole expression is one, too.
#[derive(Default)]
struct Group {
    /// Its number, if it captures.
    capture: Option<u32>,
    /// Those that hold again behind it.
    outer_flags: Flags,
    alternatives: Vec<Piece>,
    sequence: Vec<Piece>,
}

impl Group {
    fn end_alternative(&mut self) {
        self.alternatives.push(Piece::of(mem::take(&mut self.sequence), Shape::Sequence));
    }
}

struct Parser<'p> {
    whole: &'p str,
    reader: Reader,
    flags: Flags,
    outer: Vec<Group>,
    group: Group,
    captures: u32,
    names: Vec<Option<String>>,
    ranges: usize,
}

/// How often, and what follows.
struct Repeat<'p> {
    min: u32,
    max: Option<u32>,
    is_counted: bool,
    rest: &'p str,
}

pub(super) fn parse(whole: &str, reader: Reader) -> Result<Parsed, RegexError> {
    let flags = Flags { dot_matches_newline: reader == Reader::Matcher, ..Flags::default() };
    let mut parser = Parser {
        whole,
        reader,
        flags,
        outer: Vec::new(),
        group: Group::default(),
        captures: 0,
        names: Vec::new(),
        ranges: 0,
    };
    let mut text = whole;
    let mut last_repeat = None;
    while let Some((c, rest)) = next(text) {
        let mut repeat = None;
        text = match c {
            '(' => parser.open(text, rest)?,
            ')' => {
                parser.close()?;
                rest
            }
            '|' => {
                parser.group.end_alternative();
                rest
            }
            '^' => parser.look(if parser.flags.multi_line { Look::StartLF } else { Look::Start }, rest),
            '$' => parser.look(if parser.flags.multi_line { Look::EndLF } else { Look::End }, rest),
            '.' => {
                let newline = parser.flags.dot_matches_newline;
                parser.push(Hir::dot(if newline { Dot::AnyChar } else { Dot::AnyCharExceptLF }));
                rest
            }
            '[' => parser.class(text, rest)?,
            '\\' => parser.escape(text, rest)?,
            '*' | '+' | '?' | '{' => match read_repeat(text) {
                Some(found) => {
                    repeat = Some(text);
                    parser.repeat(text, found, last_repeat)?
                }
                None => {
                    parser.literal(u32::from(c));
                    rest
                }
            },
            c => {
                parser.literal(u32::from(c));
                rest
            }
        };
        last_repeat = repeat;
    }
    parser.finish()
}

impl<'p> Parser<'p> {
    fn finish(mut self) -> Result<Parsed, RegexError> {
        if !self.outer.is_empty() {
            return Err(RegexError::new("missing closing )", self.whole));
        }
        self.group.end_alternative();
        let mut piece = Piece::of(mem::take(&mut self.group.alternatives), Shape::Alternatives);
        if self.reader == Reader::Matcher && piece.shape != Shape::Sequence {
            // Anchors come around it.
            piece.height += 1;
        }
        self.check_height(&piece)?;
        Ok(Parsed { hir: piece.hir, names: self.names, height: piece.height })
    }

    fn check_height(&self, piece: &Piece) -> Result<(), RegexError> {
        if piece.height > MAX_HEIGHT { Err(self.nests_too_deeply()) } else { Ok(()) }
    }

    fn nests_too_deeply(&self) -> RegexError {
        RegexError::new(NESTS_TOO_DEEPLY, self.whole)
    }

    fn push(&mut self, hir: Hir) {
        self.group.sequence.push(Piece::leaf(hir));
    }

    fn look(&mut self, look: Look, rest: &'p str) -> &'p str {
        self.push(Hir::look(look));
        rest
    }

    /// Go's characters may be surrogates, which no text has.
    fn literal(&mut self, code: u32) {
        let hir = match char::from_u32(code) {
            None => Hir::fail(),
            Some(c) if self.flags.fold_case => {
                Hir::class(Class::Unicode(self.folded(classes::of_pairs(&[(c, c)]))))
            }
            Some(c) => Hir::literal(c.encode_utf8(&mut [0; 4]).as_bytes()),
        };
        self.push(hir);
    }

    fn folded(&self, mut class: ClassUnicode) -> ClassUnicode {
        if self.flags.fold_case {
            class.case_fold_simple();
        }
        class
    }

    fn enter(&mut self, capture: Option<u32>) -> Result<(), RegexError> {
        if self.outer.len() >= MAX_HEIGHT {
            return Err(self.nests_too_deeply());
        }
        let group = Group { capture, outer_flags: self.flags, ..Group::default() };
        self.outer.push(mem::replace(&mut self.group, group));
        Ok(())
    }

    fn enter_capture(&mut self, name: Option<&str>) -> Result<(), RegexError> {
        self.captures += 1;
        if self.reader == Reader::Compile {
            self.names.push(name.map(str::to_owned));
        }
        self.enter(Some(self.captures))
    }

    /// A group, or flags: `text` starts at the parenthesis, `rest` behind it.
    fn open(&mut self, text: &'p str, rest: &'p str) -> Result<&'p str, RegexError> {
        let Some(inner) = rest.strip_prefix('?') else {
            self.enter_capture(None)?;
            return Ok(rest);
        };
        let named = inner.strip_prefix("P<").or_else(|| inner.strip_prefix('<'));
        if let Some(named) = named.filter(|named| !named.is_empty()) {
            let wrong = |culprit| RegexError::new("invalid named capture", culprit);
            let (name, rest) = named.split_once('>').ok_or_else(|| wrong(text))?;
            let is_name = !name.is_empty() && name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
            if !is_name {
                return Err(wrong(until(text, rest)));
            }
            self.enter_capture(Some(name))?;
            return Ok(rest);
        }
        let (mut flags, mut value, mut has_flag) = (self.flags, true, false);
        let mut unread = inner;
        while let Some((c, rest)) = next(unread) {
            unread = rest;
            let flag = match c {
                'i' => &mut flags.fold_case,
                'm' => &mut flags.multi_line,
                's' => &mut flags.dot_matches_newline,
                'U' => &mut flags.is_lazy,
                '-' if value => {
                    (value, has_flag) = (false, false);
                    continue;
                }
                ':' | ')' if value || has_flag => {
                    if c == ':' {
                        self.enter(None)?;
                    }
                    self.flags = flags;
                    return Ok(rest);
                }
                _ => break,
            };
            *flag = value;
            has_flag = true;
        }
        Err(RegexError::new("invalid or unsupported Perl syntax", until(text, unread)))
    }

    fn close(&mut self) -> Result<(), RegexError> {
        let Some(outer) = self.outer.pop() else {
            return Err(RegexError::new("unexpected )", self.whole));
        };
        let mut group = mem::replace(&mut self.group, outer);
        self.flags = group.outer_flags;
        group.end_alternative();
        let mut piece = Piece::of(group.alternatives, Shape::Alternatives);
        if let Some(index) = group.capture {
            piece.shape = Shape::Other;
            piece.height += 1;
            if self.reader == Reader::Compile {
                piece.hir = Hir::capture(Capture { index, name: None, sub: Box::new(piece.hir) });
            }
            self.check_height(&piece)?;
        }
        self.group.sequence.push(piece);
        Ok(())
    }

    /// Repeats what stands before `text`.
    fn repeat(
        &mut self,
        text: &'p str,
        repeat: Repeat<'p>,
        last_repeat: Option<&'p str>,
    ) -> Result<&'p str, RegexError> {
        let Repeat { min, max, is_counted, rest } = repeat;
        let wrong_count = |rest| Err(RegexError::new("invalid repeat count", until(text, rest)));
        if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT || max < min) {
            return wrong_count(rest);
        }
        let (is_lazy, rest) = match rest.strip_prefix('?') {
            Some(rest) => (!self.flags.is_lazy, rest),
            None => (self.flags.is_lazy, rest),
        };
        if let Some(last) = last_repeat {
            return Err(RegexError::new("invalid nested repetition operator", until(last, rest)));
        }
        let Some(mut piece) = self.group.sequence.pop() else {
            return Err(RegexError::new("missing argument to repetition operator", until(text, rest)));
        };
        if is_counted {
            let times = max.unwrap_or(min);
            piece.copies = if max == Some(0) { 1 } else { piece.copies.saturating_mul(times.max(1)) };
            if times >= 2 && piece.copies > MAX_REPEAT {
                return wrong_count(rest);
            }
        }
        piece.hir = Hir::repetition(Repetition { min, max, greedy: !is_lazy, sub: Box::new(piece.hir) });
        piece.shape = Shape::Other;
        piece.height += 1;
        self.check_height(&piece)?;
        self.group.sequence.push(piece);
        Ok(rest)
    }

    /// A backslash outside of classes: `text` starts with it, `rest` behind it.
    fn escape(&mut self, text: &'p str, rest: &'p str) -> Result<&'p str, RegexError> {
        if let Some((c, rest)) = next(rest) {
            let look = match c {
                'A' => Some(Look::Start),
                'z' => Some(Look::End),
                'b' => Some(Look::WordAscii),
                'B' => Some(Look::WordAsciiNegate),
                _ => None,
            };
            if let Some(look) = look {
                return Ok(self.look(look, rest));
            }
            if c == 'Q' {
                let (quoted, rest) = rest.split_once("\\E").unwrap_or((rest, ""));
                quoted.chars().for_each(|c| self.literal(u32::from(c)));
                return Ok(rest);
            }
        }
        if let Some((class, rest)) = self.class_escape(text)? {
            self.push(Hir::class(Class::Unicode(class)));
            return Ok(rest);
        }
        let (code, rest) = escaped(text, rest)?;
        self.literal(code);
        Ok(rest)
    }

    /// `\d`, `\pN` and their like, in classes or not.
    fn class_escape(&mut self, text: &'p str) -> Result<Option<(ClassUnicode, &'p str)>, RegexError> {
        let Some((c, rest)) = text.strip_prefix('\\').and_then(next) else { return Ok(None) };
        let (pairs, is_negative) = match c {
            'd' | 'D' => (DIGIT, c == 'D'),
            's' | 'S' => (SPACE, c == 'S'),
            'w' | 'W' => (WORD, c == 'W'),
            'p' | 'P' => return self.unicode_class(text, rest, c == 'P').map(Some),
            _ => return Ok(None),
        };
        Ok(Some((self.ascii_class(pairs, is_negative)?, rest)))
    }

    fn ascii_class(&mut self, pairs: &Pairs, is_negative: bool) -> Result<ClassUnicode, RegexError> {
        self.one_or_other(classes::of_pairs(pairs), is_negative)
    }

    /// The class with its other cases, or what is not in it.
    fn one_or_other(&mut self, class: ClassUnicode, is_negative: bool) -> Result<ClassUnicode, RegexError> {
        let mut class = self.folded(class);
        if is_negative {
            class.negate();
        }
        self.ranges += class.ranges().len();
        if self.ranges > MAX_RANGES {
            return Err(RegexError::new("expression too large", self.whole));
        }
        Ok(class)
    }

    /// `\pN` or `\p{Name}`: `rest` is what follows the `p`.
    fn unicode_class(
        &mut self,
        text: &'p str,
        rest: &'p str,
        is_negative: bool,
    ) -> Result<(ClassUnicode, &'p str), RegexError> {
        let wrong = |culprit| RegexError::new("invalid character class range", culprit);
        let (name, rest) = match rest.strip_prefix('{') {
            Some(inner) => inner.split_once('}').ok_or_else(|| wrong(text))?,
            None => {
                let after = next(rest).map_or("", |(_, after)| after);
                (until(rest, after), after)
            }
        };
        let (name, is_negative) = match name.strip_prefix('^') {
            Some(name) => (name, !is_negative),
            None => (name, is_negative),
        };
        let class = match self.reader {
            Reader::Matcher => classes::unicode_exactly(name),
            Reader::Compile => classes::unicode_loosely(name),
        };
        let class = class.ok_or_else(|| wrong(until(text, rest)))?;
        Ok((self.one_or_other(class, is_negative)?, rest))
    }

    /// A class in brackets: `text` starts with the bracket, `rest` behind it.
    fn class(&mut self, text: &'p str, rest: &'p str) -> Result<&'p str, RegexError> {
        let (mut rest, is_negative) = match rest.strip_prefix('^') {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        // What stands there by itself has other cases; classes within have got theirs.
        let (mut own, mut within): (Vec<ClassUnicodeRange>, Vec<ClassUnicodeRange>) =
            (Vec::new(), Vec::new());
        let mut is_first = true;
        loop {
            if !is_first && let Some(behind) = rest.strip_prefix(']') {
                rest = behind;
                break;
            }
            is_first = false;
            if let Some((class, behind)) = self.posix_class(rest)? {
                within.extend_from_slice(class.ranges());
                rest = behind;
                continue;
            }
            if let Some((class, behind)) = self.class_escape(rest)? {
                within.extend_from_slice(class.ranges());
                rest = behind;
                continue;
            }
            let range = rest;
            let (first, behind) = class_char(rest, text)?;
            rest = behind;
            let mut last = first;
            // Before the closing bracket a hyphen is one.
            if let Some(behind) =
                rest.strip_prefix('-').filter(|rest| !rest.is_empty() && !rest.starts_with(']'))
            {
                (last, rest) = class_char(behind, text)?;
                if last < first {
                    return Err(RegexError::new("invalid character class range", until(range, rest)));
                }
            }
            own.extend(scalars(first, last));
        }
        within.extend_from_slice(self.folded(ClassUnicode::new(own)).ranges());
        let mut class = ClassUnicode::new(within);
        if is_negative {
            class.negate();
        }
        self.push(Hir::class(Class::Unicode(class)));
        Ok(rest)
    }

    /// `[:alpha:]`, which only stands in brackets.
    fn posix_class(&mut self, text: &'p str) -> Result<Option<(ClassUnicode, &'p str)>, RegexError> {
        let Some((name, rest)) = text.strip_prefix("[:").and_then(|inner| inner.split_once(":]")) else {
            return Ok(None);
        };
        let (bare, is_negative) = match name.strip_prefix('^') {
            Some(bare) => (bare, true),
            None => (name, false),
        };
        let Some(pairs) = classes::posix(bare) else {
            return Err(RegexError::new("invalid character class range", until(text, rest)));
        };
        Ok(Some((self.ascii_class(pairs, is_negative)?, rest)))
    }
}

fn next(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    chars.next().map(|c| (c, chars.as_str()))
}

/// What of `text` stands before `rest`, its end.
fn until<'p>(text: &'p str, rest: &str) -> &'p str {
    text.get(..text.len().saturating_sub(rest.len())).unwrap_or(text)
}

/// The repetition that `text` starts with. A brace that starts none is a character like others.
fn read_repeat(text: &str) -> Option<Repeat<'_>> {
    let (c, rest) = next(text)?;
    let (min, max) = match c {
        '*' => (0, None),
        '+' => (1, None),
        '?' => (0, Some(1)),
        _ => {
            let (min, rest) = read_count(rest)?;
            let (max, rest) = match rest.strip_prefix(',') {
                None => (Some(min), rest),
                Some(rest) if rest.starts_with('}') => (None, rest),
                Some(rest) => read_count(rest).map(|(max, rest)| (Some(max), rest))?,
            };
            return Some(Repeat { min, max, is_counted: true, rest: rest.strip_prefix('}')? });
        }
    };
    Some(Repeat { min, max, is_counted: false, rest })
}

/// A decimal number without leading zeros; one too large is a large one.
fn read_count(text: &str) -> Option<(u32, &str)> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = until(text, rest);
    if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    Some((digits.parse().unwrap_or(u32::MAX), rest))
}

/// One character of a class, which `class` starts.
fn class_char<'p>(text: &'p str, class: &str) -> Result<(u32, &'p str), RegexError> {
    match next(text) {
        None => Err(RegexError::new("missing closing ]", class)),
        Some(('\\', rest)) => escaped(text, rest),
        Some((c, rest)) => Ok((u32::from(c), rest)),
    }
}

/// The character that an escape stands for: `text` starts with the backslash, `rest` behind it.
fn escaped<'p>(text: &'p str, rest: &'p str) -> Result<(u32, &'p str), RegexError> {
    let wrong = |rest| Err(RegexError::new("invalid escape sequence", until(text, rest)));
    let Some((c, rest)) = next(rest) else {
        return Err(RegexError::new("trailing backslash at end of expression", ""));
    };
    let simple = match c {
        // A lone digit would refer to a group.
        '0' => return Ok(octal(0, 2, rest)),
        '1'..='7' if rest.starts_with(|c: char| c.is_digit(8)) => {
            return Ok(octal(c.to_digit(8).unwrap_or(0), 2, rest));
        }
        'x' => return hexadecimal(text, rest),
        'a' => '\x07',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
        _ => return wrong(rest),
    };
    Ok((u32::from(simple), rest))
}

/// Up to `more` digits behind what was read.
fn octal(value: u32, more: usize, rest: &str) -> (u32, &str) {
    match next(rest).and_then(|(c, rest)| Some((c.to_digit(8)?, rest))) {
        Some((digit, rest)) if more > 0 => octal(value * 8 + digit, more - 1, rest),
        _ => (value, rest),
    }
}

/// Two digits, or some in braces: `text` starts with the backslash, `rest` behind the `x`.
fn hexadecimal<'p>(text: &'p str, rest: &'p str) -> Result<(u32, &'p str), RegexError> {
    let wrong = |rest| Err(RegexError::new("invalid escape sequence", until(text, rest)));
    let Some((first, mut rest)) = next(rest) else { return wrong(rest) };
    if first != '{' {
        let (second, rest) = next(rest).map_or((None, rest), |(c, rest)| (Some(c), rest));
        let digits = first.to_digit(16).zip(second.and_then(|c| c.to_digit(16)));
        return digits.map_or_else(|| wrong(rest), |(high, low)| Ok((high * 16 + low, rest)));
    }
    let (mut value, mut is_empty) = (0, true);
    while let Some((c, behind)) = next(rest) {
        rest = behind;
        if c == '}' && !is_empty {
            return Ok((value, rest));
        }
        let Some(digit) = c.to_digit(16) else { break };
        value = value * 16 + digit;
        if value > u32::from(char::MAX) {
            break;
        }
        is_empty = false;
    }
    wrong(rest)
}

/// The characters from one number to another, without the surrogates between.
fn scalars(first: u32, last: u32) -> impl Iterator<Item = ClassUnicodeRange> {
    const SURROGATES: (u32, u32) = (0xd800, 0xdfff);
    let range = |first: u32, last: u32| {
        let ends = char::from_u32(first).zip(char::from_u32(last)).filter(|(first, last)| first <= last);
        ends.map(|(first, last)| ClassUnicodeRange::new(first, last))
    };
    [range(first, last.min(SURROGATES.0 - 1)), range(first.max(SURROGATES.1 + 1), last)].into_iter().flatten()
}
