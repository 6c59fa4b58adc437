//! Reading a TOML document table by table, so that every error has a line and a column.
//!
//! A [`Section`] remembers which keys were asked for. What is left over when it is finished is an
//! unknown key, and the keys that were asked for are the ones that could have been meant. What the values
//! mean together is judged later, on the documents made of them; [`Places`] then leads back to the text.
//!
//! Source: TOML 1.1.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use appliance::Fault;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{HullTomlError, Problem};

/// The document's text, to turn offsets into places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'t> {
    text: &'t str,
    places: &'t Places,
}

/// Where the values stand in the text that a config and a policy are made of: offsets by JSON pointers,
/// which begin with the name of the document made, such as `config/machines/0/cpu`.
#[derive(Debug, Default)]
pub(super) struct Places(RefCell<BTreeMap<String, usize>>);

impl<'t> Text<'t> {
    /// `text`, and what is known of it so far.
    pub(super) fn new(text: &'t str, places: &'t Places) -> Self {
        Self { text, places }
    }

    /// An error at the first byte of `span`.
    pub(super) fn error(self, span: Range<usize>, problem: Problem) -> HullTomlError {
        self.error_at(span.start, problem)
    }

    /// The error about a value of `made`, where that value is written; where it is not, because it is a
    /// default, at the table that could say otherwise.
    pub(super) fn fault<E: Into<Problem>>(self, made: &str, fault: Fault<E>) -> HullTomlError {
        let pointer = format!("{made}{}", fault.at);
        let places = self.places.0.borrow();
        let outwards = std::iter::successors(Some(&*pointer), |p| p.rsplit_once('/').map(|(outer, _)| outer));
        let start = outwards.filter_map(|pointer| places.get(pointer)).next().copied();
        self.error_at(start.unwrap_or(0), fault.error.into())
    }

    fn error_at(self, start: usize, problem: Problem) -> HullTomlError {
        let (line, column) = self.place(start);
        HullTomlError { line, column, problem }
    }

    /// Line and column of the byte at `start`, both from 1.
    fn place(self, start: usize) -> (usize, usize) {
        let before = self.text.get(..start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    fn note(self, pointer: String, span: Range<usize>) {
        self.places.0.borrow_mut().insert(pointer, span.start);
    }
}

/// A table whose keys are taken one by one.
#[derive(Debug)]
pub struct Section<'t> {
    text: Text<'t>,
    /// As in the header, such as `firewall.ingress`; empty for the document itself.
    name: String,
    table: &'t DeTable<'t>,
    span: Range<usize>,
    asked: RefCell<Vec<&'static str>>,
}

/// A value, and the key that it stands under.
#[derive(Debug)]
pub struct Item<'t> {
    text: Text<'t>,
    /// The key's full name, such as `machine.memory`.
    key: String,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Section<'t> {
    /// The document itself.
    pub(super) fn document(text: Text<'t>, table: &'t Spanned<DeTable<'t>>) -> Self {
        Self {
            text,
            name: String::new(),
            table: table.get_ref(),
            span: table.span(),
            asked: RefCell::default(),
        }
    }

    /// Every key of the table with its value: for tables whose keys are names of the author's own.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'t str, Item<'t>)> + '_ {
        self.table.iter().map(|(key, value)| {
            let name: &'t str = key.get_ref();
            (name, self.item(name, value))
        })
    }

    /// The value under `key`, if it is there.
    pub fn get(&self, key: &'static str) -> Option<Item<'t>> {
        self.asked.borrow_mut().push(key);
        self.table.get(key).map(|value| self.item(key, value))
    }

    /// The value under `key`, which must be there.
    ///
    /// # Errors
    ///
    /// It is not there.
    pub fn need(&self, key: &'static str) -> Result<Item<'t>, HullTomlError> {
        self.get(key).ok_or_else(|| self.missing(key))
    }

    /// The table under `key`, if it is there.
    ///
    /// # Errors
    ///
    /// The value is no table.
    pub fn section(&self, key: &'static str) -> Result<Option<Section<'t>>, HullTomlError> {
        self.get(key).map(|item| item.section()).transpose()
    }

    /// The tables of the array under `key`, none if it is not there.
    ///
    /// # Errors
    ///
    /// The value is no array of tables.
    pub fn sections(&self, key: &'static str) -> Result<Vec<Section<'t>>, HullTomlError> {
        self.get(key)
            .map_or(Ok(Vec::new()), |item| item.items()?.into_iter().map(|item| item.section()).collect())
    }

    /// Notes that the value at `pointer` is made of this table.
    pub(super) fn noted_as(self, pointer: impl Into<String>) -> Self {
        self.text.note(pointer.into(), self.span.clone());
        self
    }

    /// An error about the table as a whole.
    fn error(&self, problem: Problem) -> HullTomlError {
        self.text.error(self.span.clone(), problem)
    }

    /// Ends the table: a key that nobody asked for is an error.
    ///
    /// # Errors
    ///
    /// That key, and the one that is nearest to it.
    pub fn finish(self) -> Result<(), HullTomlError> {
        let mut asked = self.asked.into_inner();
        asked.sort_unstable();
        asked.dedup();
        let unknown = self.table.iter().find(|(key, _)| !asked.contains(&key.get_ref().as_ref()));
        let Some((key, _)) = unknown else { return Ok(()) };
        let nearest = nearest(key.get_ref(), &asked);
        let problem = Problem::UnknownKey {
            key: key.get_ref().escape_debug().to_string(),
            hint: match nearest {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("known here: {}", asked.join(", ")),
            },
        };
        Err(self.text.error(key.span(), problem))
    }

    /// That `key` is not there; or, where another key looks like a slip for it, that one is unknown.
    fn missing(&self, key: &'static str) -> HullTomlError {
        if let Some((slip, _)) = self.table.iter().find(|(slip, _)| nearest(slip.get_ref(), &[key]).is_some())
        {
            let hint = format!("did you mean `{key}`?");
            let problem = Problem::UnknownKey { key: slip.get_ref().escape_debug().to_string(), hint };
            return self.text.error(slip.span(), problem);
        }
        let section = match self.name.as_str() {
            "" => "the document".to_owned(),
            name => format!("`[{name}]`"),
        };
        self.error(Problem::Missing { key, section })
    }

    fn item(&self, key: &str, value: &'t Spanned<DeValue<'t>>) -> Item<'t> {
        let key = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        Item { text: self.text, key: key.escape_debug().to_string(), value }
    }
}

impl<'t> Item<'t> {
    /// The value as a table.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn section(&self) -> Result<Section<'t>, HullTomlError> {
        match self.value.get_ref().as_table() {
            Some(table) => Ok(Section {
                text: self.text,
                name: self.key.clone(),
                table,
                span: self.value.span(),
                asked: RefCell::default(),
            }),
            None => Err(self.wrong_type("a table")),
        }
    }

    /// The value as an array.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn items(&self) -> Result<Vec<Item<'t>>, HullTomlError> {
        let array = self.value.get_ref().as_array().ok_or_else(|| self.wrong_type("an array"))?;
        Ok(array.iter().map(|value| Item { text: self.text, key: self.key.clone(), value }).collect())
    }

    /// True if the value is a table.
    pub(super) fn is_section(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// True if the value is an integer.
    pub(super) fn is_integer(&self) -> bool {
        self.value.get_ref().is_integer()
    }

    /// The value as text.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn text(&self) -> Result<&'t str, HullTomlError> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type("a string"))
    }

    /// The value as true or false.
    ///
    /// # Errors
    ///
    /// It is neither.
    pub fn flag(&self) -> Result<bool, HullTomlError> {
        self.value.get_ref().as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// The value as a whole number within `range`.
    ///
    /// # Errors
    ///
    /// It is none, or lies outside.
    pub fn number<N>(&self, range: RangeInclusive<N>) -> Result<N, HullTomlError>
    where
        N: TryFrom<i128> + PartialOrd + std::fmt::Display,
    {
        let number = self.value.get_ref().as_integer().ok_or_else(|| self.wrong_type("a whole number"))?;
        i128::from_str_radix(number.as_str(), number.radix())
            .ok()
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                self.bad(number.as_str(), format!("a number from {} to {}", range.start(), range.end()))
            })
    }

    /// The value as a date, `YYYY-MM-DD`.
    pub(super) fn date(&self) -> Result<String, HullTomlError> {
        match self.value.get_ref().as_datetime() {
            Some(toml::value::Datetime { date: Some(date), time: None, offset: None }) => {
                Ok(date.to_string())
            }
            _ => Err(self.wrong_type("a date such as 2027-06-30")),
        }
    }

    /// The value that one of the listed words stands for.
    ///
    /// # Errors
    ///
    /// It is none of them.
    pub fn choice<T: Copy>(&self, words: &[(&'static str, T)]) -> Result<T, HullTomlError> {
        let text = self.text()?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.bad(text, words.join(" or "))
        })
    }

    /// The value as a string that parses as `T`, whose own error says what was wanted.
    pub(super) fn parse<T: FromStr>(&self) -> Result<T, HullTomlError>
    where
        Problem: From<T::Err>,
    {
        self.text()?.parse().map_err(|error: T::Err| self.error(error.into()))
    }

    /// What `read` makes of the value's text; `wanted` says what it accepts.
    ///
    /// # Errors
    ///
    /// The value is no text, or `read` gives `None`.
    pub fn read<T>(
        &self,
        read: impl FnOnce(&str) -> Option<T>,
        wanted: &'static str,
    ) -> Result<T, HullTomlError> {
        let text = self.text()?;
        read(text).ok_or_else(|| self.bad(text, wanted.to_owned()))
    }

    /// Notes that the value at `pointer` is made of this one.
    pub(super) fn noted_as(self, pointer: impl Into<String>) -> Self {
        self.text.note(pointer.into(), self.value.span());
        self
    }

    /// Line and column of the value, both from 1.
    pub(super) fn place(&self) -> (usize, usize) {
        self.text.place(self.value.span().start)
    }

    /// An error about this value.
    pub fn error(&self, problem: Problem) -> HullTomlError {
        self.text.error(self.value.span(), problem)
    }

    fn bad(&self, found: &str, wanted: String) -> HullTomlError {
        self.error(Problem::BadValue {
            key: self.key.clone(),
            found: found.escape_debug().to_string(),
            wanted,
        })
    }

    fn wrong_type(&self, wanted: &'static str) -> HullTomlError {
        let found = self.value.get_ref().type_str();
        self.error(Problem::WrongType { key: self.key.clone(), found, wanted })
    }
}

/// The known key that `found` most likely stands for, if one is near.
fn nearest(found: &str, known: &[&'static str]) -> Option<&'static str> {
    let limit = found.chars().count().clamp(1, 9) / 3 + 1;
    let same_start = |key: &str| key.chars().next() == found.chars().next();
    let ranked = known.iter().map(|key| (distance(found, key), !same_start(key), *key));
    ranked.filter(|(far, ..)| *far <= limit).min().map(|(.., key)| key)
}

/// Levenshtein distance. The found key is cut at 64 characters: no known key is near a longer one.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
