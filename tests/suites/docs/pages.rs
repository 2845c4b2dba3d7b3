//! Markdown pages.

use std::{collections::BTreeMap, ops::Range};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::{files_below, read, root};

/// One page.
pub(crate) struct Page {
    /// Path from the root of the repository.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Targets of links and images, with their lines.
    pub(crate) links: Vec<(usize, String)>,
    /// Anchors of the headings, as GitHub creates them.
    pub(crate) anchors: Vec<String>,
    pub(crate) code: Vec<Code>,
}

/// A code span or a code block.
pub(crate) struct Code {
    /// Line of the first character.
    pub(crate) line: usize,
    pub(crate) text: String,
    /// Language of a block, "" if it has none; `None`: a code span.
    pub(crate) language: Option<String>,
}

/// All pages: those at the root and those below `docs`.
pub(crate) fn pages() -> Vec<Page> {
    let at_root = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(Into::into);
    let at_root = at_root.into_iter().filter(|path| root().join(path).exists());
    let paths = at_root.chain(files_below("docs")).filter(|path| path.extension().is_some_and(|found| found == "md"));
    let pages: Vec<_> = paths.map(|path| page(&path.display().to_string(), &read(&path))).collect();
    assert!(pages.len() > 20, "{} pages", pages.len());
    pages
}

/// Parses a page.
pub(crate) fn page(name: &str, text: &str) -> Page {
    let mut page =
        Page { name: name.into(), text: text.into(), links: Vec::new(), anchors: Vec::new(), code: Vec::new() };
    let line = |range: &Range<usize>| text[..range.start].matches('\n').count() + 1;
    let mut seen = BTreeMap::new();
    let mut heading: Option<String> = None;
    let mut block: Option<Code> = None;
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                page.links.push((line(&range), dest_url.into()));
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default());
                let count = seen.entry(anchor.clone()).and_modify(|count| *count += 1).or_insert(0);
                page.anchors.push(if *count == 0 { anchor } else { format!("{anchor}-{count}") });
            }
            Event::Start(Tag::CodeBlock(kind)) => {
                let (language, first) = match kind {
                    CodeBlockKind::Fenced(language) => (language.to_string(), line(&range) + 1),
                    CodeBlockKind::Indented => (String::new(), line(&range)),
                };
                block = Some(Code { line: first, text: String::new(), language: Some(language) });
            }
            Event::End(TagEnd::CodeBlock) => page.code.extend(block.take()),
            Event::Text(text) => {
                if let Some(block) = &mut block {
                    block.text += &text;
                } else if let Some(heading) = &mut heading {
                    *heading += &text;
                }
            }
            Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    *heading += &text;
                }
                page.code.push(Code { line: line(&range), text: text.into(), language: None });
            }
            _ => {}
        }
    }
    page
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn anchors_are_those_of_github() {
    let page = page("a.md", "# `rx = \"xdp\"`\n## What's new, in 1.0?\n## What's new, in 1.0?\n# `OVL_A`, `OVL_B`\n");
    assert_eq!(page.anchors, ["rx--xdp", "whats-new-in-10", "whats-new-in-10-1", "ovl_a-ovl_b"]);
}
