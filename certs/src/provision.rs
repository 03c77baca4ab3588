//! Certificates for many devices at once.

use std::path::Path;

use penstock_proto::DeviceId;
use uuid::Uuid;

use crate::{Authority, CertsError, CredentialFiles, Overwrite};

/// The folder of device certificates below the authority's.
pub(crate) const DEVICES: &str = "devices";
/// Namespace of device ids made from a seed: the UUID v5 of the URL `https://penstock.example/devices`.
const NAMESPACE: &[u8] = b"https://penstock.example/devices";

/// The ids of `count` devices: with a seed always the same ones (UUID v5 of seed and index), without it random (v4).
///
/// The first devices of a seed are the same whatever the count.
pub fn device_ids(seed: Option<u64>, count: usize) -> Vec<DeviceId> {
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, NAMESPACE);
    let id = |index: usize| match seed {
        Some(seed) => Uuid::new_v5(&namespace, format!("{seed}/{index}").as_bytes()),
        None => Uuid::new_v4(),
    };
    (0..count).map(|index| id(index).into()).collect()
}

/// Signs a certificate for each device and writes `devices/<uuid>.pem` and `.key` below `dir`.
///
/// # Errors
/// [`CertsError`] of the first device that fails; devices before it are written.
pub fn provision_devices(
    authority: &Authority,
    dir: &Path,
    devices: &[DeviceId],
    days: u32,
    overwrite: Overwrite,
) -> Result<Vec<CredentialFiles>, CertsError> {
    let dir = dir.join(DEVICES);
    let provision = |device: &DeviceId| {
        let files = CredentialFiles::new(&dir, &device.to_string());
        files.write(&authority.device(*device, days)?, overwrite)?;
        Ok(files)
    };
    devices.iter().map(provision).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::describe;

    #[test]
    fn a_seed_gives_the_same_devices_again_and_other_seeds_others() {
        assert_eq!(device_ids(Some(7), 3), device_ids(Some(7), 5)[..3]);
        let ids: HashSet<_> = (0..4).flat_map(|seed| device_ids(Some(seed), 100)).collect();
        assert_eq!(ids.len(), 400);
        assert_eq!(device_ids(None, 100).into_iter().collect::<HashSet<_>>().len(), 100);
    }

    #[test]
    fn the_ids_of_a_seed_never_change() {
        assert_eq!(device_ids(Some(0), 1)[0].to_string(), "f78c3cf9-c3b0-519e-84ef-6d6c3bf50a00");
    }

    #[test]
    fn every_device_gets_a_certificate_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create("test", 1).unwrap();
        let devices = device_ids(Some(1), 300);
        let files = provision_devices(&authority, dir.path(), &devices, 1, Overwrite::Refuse).unwrap();
        assert_eq!(files.len(), 300);
        for (device, files) in devices.iter().zip(&files) {
            assert_eq!(files.cert, dir.path().join(format!("devices/{device}.pem")));
            let pem = std::fs::read_to_string(&files.cert).unwrap();
            assert_eq!(describe(&pem).unwrap().device, Some(*device));
        }
        let again = provision_devices(&authority, dir.path(), &devices, 1, Overwrite::Refuse);
        assert!(matches!(again, Err(CertsError::Exists { .. })));
    }
}
