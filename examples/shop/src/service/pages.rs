//! The pages of the gateway, as the services see them that change a part of one: they only invalidate.

use larder::{Cache, OrDeferred as _};

use super::failure::{Answer, Trouble};
use super::{Service, Way};

/// The name of the cache of responses.
pub(crate) const NAME: &str = "http";

/// `None` where nothing is cached by the crate.
pub(crate) struct Pages(Option<Cache<String, ()>>);

impl Pages {
    pub(crate) fn new(service: &Service) -> Result<Self, Trouble> {
        let is_cached = service.setup.way == Way::Larder;
        let cache = is_cached.then(|| service.caches.cache(NAME).build());
        Ok(Self(cache.transpose()?))
    }

    /// The tag of all lists.
    pub(crate) const LISTS: &str = "products";

    /// The tag of the page of a product.
    pub(crate) fn tag(product: u64) -> String {
        format!("product:{product}")
    }

    pub(crate) fn cache(&self) -> Option<&Cache<String, ()>> {
        self.0.as_ref()
    }

    /// As [`changed`](Self::changed), for what lists show, too.
    pub(crate) async fn renamed(&self, product: u64) -> Answer<()> {
        self.changed(product).await?;
        if let Some(cache) = &self.0 {
            cache.invalidate_tag(Self::LISTS).await.or_deferred()?;
        }
        Ok(())
    }

    /// To be called when no service has the old part any more: a page that is made anew before could have it.
    pub(crate) async fn changed(&self, product: u64) -> Answer<()> {
        if let Some(cache) = &self.0 {
            cache
                .invalidate_tag(&Self::tag(product))
                .await
                .or_deferred()?;
        }
        Ok(())
    }
}
