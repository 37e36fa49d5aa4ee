//! Templates of configurations: `@NAME@` is replaced, and the lines between `# each host` and `# end` are repeated.

use std::fmt::Write as _;

/// Fills one in.
pub fn fill_in(template: &str, values: &[(&str, String)], hosts: &[String]) -> String {
    let mut text = String::new();
    let mut block: Option<Vec<&str>> = None;
    for line in template.lines() {
        match (line.trim(), &mut block) {
            ("# each host", _) => block = Some(Vec::new()),
            ("# end", Some(lines)) => {
                for host in hosts {
                    for line in lines.iter() {
                        let _infallible = writeln!(text, "{}", line.replace("@HOST@", host));
                    }
                }
                block = None;
            }
            (_, Some(lines)) => lines.push(line),
            (_, None) => {
                let _infallible = writeln!(text, "{line}");
            }
        }
    }
    values.iter().fold(text, |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_repeat_their_block_and_values_are_put_in() {
        let hosts = ["a.test".to_owned(), "b.test".to_owned()];
        let template = "listen @PORT@\n  # each host\n  serve @HOST@ at @PORT@\n  # end\nend\n";
        assert_eq!(
            fill_in(template, &[("PORT", "80".to_owned())], &hosts),
            "listen 80\n  serve a.test at 80\n  serve b.test at 80\nend\n"
        );
        assert_eq!(fill_in("a\n# each host\n@HOST@\n# end\n", &[], &[]), "a\n");
    }
}
