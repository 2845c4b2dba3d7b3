//! Links between pages, and from pages to files.

use std::path::{Component, Path, PathBuf};

use crate::{
    assert_none,
    pages::{Page, page, pages},
    root,
};

#[test]
fn links_of_pages_resolve() {
    assert_none(&dead_links(&pages(), |path| root().join(path).exists()));
}

/// Relative links to files that do not exist, and to anchors that a page does not have.
fn dead_links(pages: &[Page], exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut dead = Vec::new();
    for Page { name, links, .. } in pages {
        for (line, link) in links.iter().filter(|(_, link)| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let path = match file {
                "" => PathBuf::from(name),
                _ => resolve(Path::new(name).parent().unwrap_or(Path::new("")), file),
            };
            let target = pages.iter().find(|page| Path::new(&page.name) == path);
            if target.is_none() && !exists(&path) {
                dead.push(format!("{name}:{line}: {link}: there is no {}", path.display()));
            } else if let (Some(anchor), Some(page)) = (anchor, target)
                && !page.anchors.iter().any(|found| found == anchor)
            {
                dead.push(format!("{name}:{line}: {link}: {} has no such heading", page.name));
            }
        }
    }
    dead
}

/// Target of a relative link in a page of `directory`, as a path from the root of the repository.
fn resolve(directory: &Path, link: &str) -> PathBuf {
    let mut path = directory.to_owned();
    for component in Path::new(link).components() {
        match component {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

#[test]
fn dead_link_and_dead_anchor_are_found() {
    let text =
        "# One\n[a](b.md#two) ![b](../c.svg) [c](#one)\n[d](b.md#three) [e](d.md) ![f](e.svg)\n[g](#two) <https://h>";
    let pages = [page("docs/a.md", text), page("docs/b.md", "## Two")];
    assert_eq!(
        dead_links(&pages, |path| path == Path::new("c.svg")),
        [
            "docs/a.md:3: b.md#three: docs/b.md has no such heading",
            "docs/a.md:3: d.md: there is no docs/d.md",
            "docs/a.md:3: e.svg: there is no docs/e.svg",
            "docs/a.md:4: #two: docs/a.md has no such heading",
        ]
    );
}
