//! Reads include/hybridq.h: it is generated, so its form is known.

/// A function of the header.
#[derive(Debug, Clone)]
pub struct Function {
    pub name: String,
    pub result: String,
    /// Type and name of each parameter.
    pub parameters: Vec<(String, String)>,
    /// The comment above it, on one line.
    pub comment: String,
}

/// A struct whose fields are public.
#[derive(Debug, Clone)]
pub struct Struct {
    pub name: String,
    /// Type and name of each field.
    pub fields: Vec<(String, String)>,
}

/// What the header declares.
#[derive(Debug, Default)]
pub struct Header {
    pub functions: Vec<Function>,
    pub structs: Vec<Struct>,
    /// Opaque types.
    pub opaque: Vec<String>,
    /// Names of constants and enumerators with their values.
    pub constants: Vec<(String, i64)>,
}

/// Splits `const float *x` into type and name; stars belong to the type.
fn split_declaration(text: &str) -> (String, String) {
    let text = text.trim();
    let at = text.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
    (text[..at].trim().to_string(), text[at..].to_string())
}

impl Header {
    pub fn read() -> Header {
        let text = std::fs::read_to_string(super::root().join("include/hybridq.h")).unwrap();
        let mut header = Header::default();
        let (mut comment, mut lines) = (String::new(), text.lines().peekable());
        while let Some(line) = lines.next() {
            if let Some(rest) = line.trim().strip_prefix("//") {
                comment += rest;
                continue;
            }
            if let Some(rest) = line.strip_prefix("#define HQ_").or(line.strip_prefix("#define HYBRIDQ_ABI")) {
                let mut words = rest.split_whitespace();
                let prefix = &line["#define ".len()..line.len() - rest.len()];
                if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse)) {
                    header.constants.push((format!("{prefix}{name}"), value));
                }
            } else if let Some((name, value)) = line.trim().strip_prefix("HQ_").and_then(|rest| rest.split_once(" = "))
            {
                header.constants.push((format!("HQ_{name}"), value.trim_end_matches(',').parse().unwrap()));
            } else if let Some(name) = line.strip_prefix("typedef struct hq_") {
                header.opaque.push(format!("hq_{}", name.split_whitespace().next().unwrap()));
            } else if line == "typedef struct {" {
                let mut fields = Vec::new();
                for line in lines.by_ref() {
                    if let Some(name) = line.strip_prefix("} ") {
                        let name = name.trim_end_matches(';').to_string();
                        header.structs.push(Struct { name, fields });
                        break;
                    }
                    if !line.trim().starts_with("//") {
                        fields.push(split_declaration(line.trim().trim_end_matches(';')));
                    }
                }
            } else if line.contains("hq_") && line.contains('(') && !line.starts_with(['#', ' ', 't']) {
                let mut declaration = line.to_string();
                while !declaration.ends_with(';') {
                    declaration += lines.next().unwrap().trim();
                    declaration.push(' ');
                    declaration.truncate(declaration.trim_end().len());
                }
                let (head, rest) = declaration.split_once('(').unwrap();
                let (result, name) = split_declaration(head);
                let inner = rest.trim_end_matches(");");
                let parameters = match inner.trim() {
                    "void" | "" => Vec::new(),
                    inner => inner.split(',').map(split_declaration).collect(),
                };
                let comment = comment.trim().to_string();
                header.functions.push(Function { name, result, parameters, comment });
            }
            comment.clear();
        }
        assert!(header.functions.len() > 50 && header.structs.len() > 10, "the header was not understood");
        header
    }

    /// Whether `name` is an opaque type.
    pub fn is_opaque(&self, name: &str) -> bool {
        self.opaque.iter().any(|opaque| opaque == name)
    }
}
